"""The tests of search compile hundreds of small programs: quickly, rather than for speed."""

import jax
import pytest


# Of the module, so that it comes before the fixtures that build an index for a whole file: what
# they compile is not compiled again by the tests.
@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
