"""Activations by name."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp

Activation = Literal["relu", "tanh", "gelu", "gelu-tanh", "quick-gelu", "silu", "softplus"]
# "gelu" is the exact one, as of BERT; "gelu-tanh" its approximation, as of GPT-2; "quick-gelu"
# CLIP's.
ACTIVATIONS: MappingProxyType[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu-tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "quick-gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
    }
)
