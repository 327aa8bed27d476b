"""Dense layers, and stacks of them."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxembed.nn.activations import ACTIVATIONS, Activation


def dot_rows(
    inputs: Float[Array, "*axes inputs"],
    kernel: Float[Array, "inputs outputs"],
    dimension_numbers: tuple = (),
    precision: lax.PrecisionLike = None,
) -> Float[Array, "*axes outputs"]:
    """The product of a dense layer, with all axes but the last made one.

    The gradient of the kernel is then a product of two matrices as they lie. With more axes XLA
    transposes what comes back from the layers behind, and on CPUs sums it up anew for each such
    copy: a step of CLIP took half as long again.

    Args:
        inputs: Vectors.
        kernel: A column an output.
        dimension_numbers: What linen says of the axes, which is what stands here.
        precision: As of `lax.dot_general`.

    Returns:
        One vector for each of `inputs`.
    """
    del dimension_numbers
    outputs = lax.dot(inputs.reshape(-1, inputs.shape[-1]), kernel, precision=precision)
    return outputs.reshape(*inputs.shape[:-1], -1)


# linen's in all but the product; its parameters are the same.
Dense = functools.partial(nn.Dense, dot_general=dot_rows)


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
            hidden = activate(Dense(width, dtype=self.dtype)(hidden))
        return Dense(self.outputs, dtype=self.dtype)(hidden).astype(jnp.float32)
