"""The tests of search compile hundreds of small programs: quickly, rather than for speed."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
