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
