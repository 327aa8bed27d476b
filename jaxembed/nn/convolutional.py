"""Convolutional encoder and decoder of images of any size."""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxembed.nn.activations import ACTIVATIONS, Activation
from jaxembed.nn.dense import Dense


class ConvolutionalEncoder(nn.Module):
    """Convolutions with stride 2, then a dense layer.

    Attributes:
        channels: Of each convolution; each halves height and width, rounded up.
        outputs: Width of the dense layer.
        activation: What follows each convolution.
        dtype: What products are computed in; parameters and results are float32.
    """

    channels: tuple[int, ...]
    outputs: int
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch outputs"]:
        """Encodes images."""
        hidden = images
        for channels in self.channels:
            hidden = nn.Conv(channels, (3, 3), strides=2, dtype=self.dtype)(hidden)
            hidden = ACTIVATIONS[self.activation](_normalize(hidden, self.dtype))
        flat = hidden.reshape(hidden.shape[0], -1)
        return Dense(self.outputs, dtype=self.dtype)(flat).astype(jnp.float32)


class ConvolutionalDecoder(nn.Module):
    """A dense layer, then convolutions after doubling the size: the encoder's way back.

    The size is doubled by repeating pixels, which leaves no chessboard patterns as a transposed
    convolution does.

    Attributes:
        height: Of the images.
        width: Of the images.
        channels: As those of the encoder, from the image inwards.
        outputs: Channels of the result.
        activation: What follows each convolution but the last.
        dtype: What products are computed in; parameters and results are float32.
    """

    height: int
    width: int
    channels: tuple[int, ...]
    outputs: int
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(
        self, codes: Float[Array, "batch dim"]
    ) -> Float[Array, "batch height width outputs"]:
        """Decodes codes."""
        sizes = [(self.height, self.width)]
        for _ in self.channels:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        activate = ACTIVATIONS[self.activation]
        inner = (*sizes[-1], self.channels[-1])
        hidden = activate(Dense(math.prod(inner), dtype=self.dtype)(codes))
        hidden = hidden.reshape(-1, *inner)
        outer_channels = (self.outputs, *self.channels[:-1])
        for index in reversed(range(len(self.channels))):
            height, width = sizes[index]
            hidden = jnp.repeat(jnp.repeat(hidden, 2, axis=1), 2, axis=2)[:, :height, :width]
            hidden = nn.Conv(outer_channels[index], (3, 3), dtype=self.dtype)(hidden)
            if index > 0:
                hidden = activate(_normalize(hidden, self.dtype))
        return hidden.astype(jnp.float32)


def _normalize(hidden: Array, dtype: str) -> Array:
    """Normalises groups of 8 channels, or what divides them; an example sees no other."""
    return nn.GroupNorm(num_groups=None, group_size=math.gcd(8, hidden.shape[-1]), dtype=dtype)(
        hidden
    )
