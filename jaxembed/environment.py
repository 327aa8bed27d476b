"""The machine and process that a run lives in: what they are, and memory given back."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

CACHE_VARIABLE = "JAXEMBED_CACHE"
SLOW_TO_COMPILE = 0.2  # seconds; less is not worth a file


def describe_environment() -> dict[str, Any]:
    """Versions, devices and machine, as JSON values."""
    packages = ("jaxembed", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    commit = None
    if (Path(__file__).parent.parent / ".git").exists():
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        with contextlib.suppress(OSError):  # where git is not installed
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            commit = found.stdout.strip() or None
    return {
        "commit": commit,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def trim_heap() -> None:
    """Gives the system back what reading and compiling freed: half of what a run holds by then.

    The C library keeps it where something in use lies behind it. Others than glibc have no
    `malloc_trim`, and none is needed.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_compiled() -> Path | None:
    """Keeps what JAX compiles on the disk from now on, so that no later process waits for it.

    The folder is that of the environment variable JAXEMBED_CACHE, else `jaxembed/compiled` in the
    user's cache folder (XDG_CACHE_HOME, or ~/.cache). `JAXEMBED_CACHE=off` turns it off. A cache
    that the program chose itself (`jax_compilation_cache_dir`) is left alone.

    Returns:
        The folder, or None where nothing is kept.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() in ("off", "0", "false"):
        return None
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(chosen) if chosen else caches / "jaxembed" / "compiled"
    try:
        # Whoever can write there decides what is run.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SLOW_TO_COMPILE)
    return folder
