"""Settings that hold for every test: eight CPU devices and strict ranks."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# They compile thousands of small programs, which run for microseconds.
COMPILED_QUICKLY = {"decoding", "losses", "metrics", "models", "nn", "search", "tasks"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the fixtures of a module, which compile as well."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    is_quick = folder in COMPILED_QUICKLY and "optimized" not in item.keywords
    jax.config.update("jax_disable_most_optimizations", is_quick)


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture
def strict_dtypes():
    """Dtype promotion raises; on in all tests but those of training (optax.adam fails it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
