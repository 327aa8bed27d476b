"""An encoder of images that learns from two random views of each, without labels."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxembed.losses import clip_loss
from jaxembed.nn import (
    ACTIVATIONS,
    Activation,
    ConvolutionalEncoder,
    DenseStack,
    add_noise,
    random_crop,
    random_shift,
)


class ViewEncoder(nn.Module):
    """A convolutional encoder and the projection that its loss is taken of.

    Attributes:
        shape: Of an image, (height, width) or (height, width, channels); empty takes the data's.
        channels: Of each convolution; each halves height and width.
        dim: Length of a code.
        projection: Length of the vectors that are compared in training only.
        activation: Of the layers.
        dtype: What products are computed in; parameters and results are float32.

    Reference: Chen et al., 2020, https://arxiv.org/abs/2002.05709, figure 2.
    """

    shape: tuple[int, ...] = ()
    channels: tuple[int, ...] = (32, 64)
    dim: int = 64
    projection: int = 32
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def setup(self) -> None:
        """Makes both parts."""
        self.encoder = ConvolutionalEncoder(self.channels, self.dim, self.activation, self.dtype)
        self.head = DenseStack((self.dim,), self.projection, self.activation, self.dtype)

    def encode(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch dim"]:
        """Gives the codes, which are what the model is for."""
        images = x if x.ndim == 4 else x[..., None]
        return self.encoder(images)

    def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch projection"]:
        """Gives the projections of the codes, of length 1."""
        projected = self.head(ACTIVATIONS[self.activation](self.encode(x)))
        squares = jnp.sum(projected * projected, axis=-1, keepdims=True)
        return projected * jax.lax.rsqrt(squares + 1e-12)


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """Two random views of an image are a pair; the others of the batch are its negatives.

    Attributes:
        temperature: Of the softmax over the batch.
        smallest_crop: Least share of the area that a view shows, up to 1 for all of it.
        shift: Largest shift of a view in pixels.
        noise: Standard deviation of the noise on its pixels.
    """

    temperature: float = 0.2
    smallest_crop: float = 0.5
    shift: int = 1
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; give a number above 0.")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop is {self.smallest_crop}; give a share up to 1.")
        if self.shift < 0 or self.noise < 0:
            raise ValueError(f"shift is {self.shift}, noise {self.noise}; give 0 or more of each.")


def make_view(
    x: Float[Array, "batch *shape"], key: Key[Array, ""], views: TwoViews
) -> Float[Array, "batch *shape"]:
    """Draws a view of each image.

    Args:
        x: Images from 0 to 1, with or without an axis of channels.
        key: Decides the views.
        views: How far they may differ from the images.

    Returns:
        Images of the same shape.
    """
    crop_key, shift_key, noise_key = jax.random.split(key, 3)
    images = x if x.ndim == 4 else x[..., None]
    images = random_crop(images, crop_key, smallest=views.smallest_crop)
    images = random_shift(images, shift_key, most=views.shift)
    return add_noise(images, noise_key, deviation=views.noise).reshape(x.shape)


def make_view_loss(model: ViewEncoder, views: TwoViews) -> Any:
    """Makes the LossFn of two views.

    Args:
        model: The encoder.
        views: How views are drawn.

    Returns:
        `(params, batch, key) -> (loss, metrics)`; batches have images `x` and `mask`, and the
        metrics are loss, in nats, and accuracy, the share of views whose partner scores best.
    """

    def loss_fn(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[Array, dict]:
        mask = batch["mask"]
        first, second = (
            model.apply({"params": params}, make_view(batch["x"], one, views))
            for one in jax.random.split(key)
        )
        losses = clip_loss(first, second, temperature=views.temperature, mask=mask)
        count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
        scores = jnp.where(mask[None, :], first @ second.T, -2.0)  # cosines are -1 or more
        is_right = jnp.argmax(scores, axis=1) == jnp.arange(scores.shape[0])
        metrics = {
            "loss": (jnp.sum(losses), count),
            "accuracy": (jnp.sum(is_right & mask, dtype=jnp.float32), count),
        }
        return jnp.sum(losses) / count, metrics

    return loss_fn
