"""Stacks of dense layers."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxembed.nn.activations import ACTIVATIONS, Activation


class DenseStack(nn.Module):
    """Dense layers with an activation between them, none after the last.

    Attributes:
        hidden: Widths of the layers before the last; empty for a linear map.
        outputs: Width of the last layer.
        activation: What stands between two layers.
        dtype: What products are computed in; parameters and results are float32.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the layers to the last axis."""
        activate = ACTIVATIONS[self.activation]
        hidden = inputs
        for width in self.hidden:
            hidden = activate(nn.Dense(width, dtype=self.dtype)(hidden))
        return nn.Dense(self.outputs, dtype=self.dtype)(hidden).astype(jnp.float32)
