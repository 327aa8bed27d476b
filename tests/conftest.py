"""Settings that hold for every test: eight CPU devices and strict ranks."""

import gc
import os
import signal
from pathlib import Path

import jax
import jaxlib
import pytest

os.environ["JAXEMBED_CACHE"] = "off"  # a test compiles what it tests

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# They compile thousands of small programs, which run for microseconds.
COMPILED_QUICKLY = {
    "decoding",
    "test_encoder.py",
    "test_readme.py",
    "losses",
    "metrics",
    "models",
    "nn",
    "search",
    "tasks",
    "train",
}
# XLA's older code for fusions on CPUs compiles in two thirds of the time; newer XLA has no other.
OLDER_FUSIONS = "--xla_cpu_use_fusion_emitters=false"
MOST_MAPS = 30_000


def pytest_configure(config):
    """Before anything is compiled, here or in a process that a test starts."""
    if jaxlib.__version__.startswith("0.10.") and config.option.markexpr != "peers":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLDER_FUSIONS}".strip()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the fixtures of a module, which compile as well."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    is_quick = folder in COMPILED_QUICKLY and "optimized" not in item.keywords
    jax.config.update("jax_disable_most_optimizations", is_quick)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Compiled programs would use up the memory maps of a process, 65,530 on Linux."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture
def strict_dtypes():
    """Dtype promotion raises; on in all tests but those of training (optax.adam fails it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def stop_at(monkeypatch):
    """A function that makes the next runs get a Ctrl-C once they have logged a step."""
    from jaxembed import run as run_module  # later than the hook that checks its types

    def stop_at(step, log=run_module._log):
        def log_and_stop(folder, entry, state):
            log(folder, entry, state)
            if entry.step == step:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(run_module, "_log", log_and_stop)

    return stop_at
