"""Settings that hold for every test: eight CPU devices and strict ranks."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture
def strict_dtypes():
    """Dtype promotion raises; on in all tests but those of training (optax.adam fails it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
