"""Embeddings of words, sentences, images and more as pure functions in JAX.

The names below are imported on first use, so that `from jaxembed.losses import ...` costs no more
than JAX itself.
"""

import importlib

_HOMES = {
    "KeyedVectors": "jaxembed.vectors",
    "Recipe": "jaxembed.recipe",
    "load_encoder": "jaxembed.encoder",
    "load_run": "jaxembed.run",
    "train_recipe": "jaxembed.run",
}
__all__ = ["KeyedVectors", "Recipe", "load_encoder", "load_run", "train_recipe"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxembed' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
