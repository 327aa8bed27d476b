"""Random views of images: shifted, mirrored, darkened and noisy."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class Views:
    """How an image is varied; the default leaves it as it is.

    Attributes:
        shift: Most pixels by which it is moved up, down, left or right; what enters repeats the
            edge.
        zoom: Largest share by which it is made larger or smaller about its middle.
        contrast: Largest share by which its values are stretched or shrunk.
        noise: Standard deviation of what is added to its values, which go from -1 to 1.
    """

    shift: int = 0
    zoom: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shift, self.zoom, self.contrast, self.noise) < 0 or self.zoom >= 1:
            raise ValueError(f"{self}: give 0 or more of each, and less than 1 for zoom.")


def random_views(
    images: Float[Array, "batch height width channels"], key: Key[Array, ""], views: Views
) -> Float[Array, "batch height width channels"]:
    """Draws a view of each image.

    Args:
        images: The images, with values from -1 to 1.
        key: Random key.
        views: How far they may differ.

    Returns:
        Images of the same shape, resampled linearly where they were moved or zoomed.
    """
    move_key, zoom_key, contrast_key, noise_key = jax.random.split(key, 4)
    batch, height, width, _ = images.shape
    if views.shift or views.zoom:
        shift = jax.random.uniform(move_key, (batch, 2), minval=-views.shift, maxval=views.shift)
        limit = jnp.log1p(views.zoom)
        zoom = jnp.exp(jax.random.uniform(zoom_key, (batch,), minval=-limit, maxval=limit))
        images = _resample(images, _weights(height, shift[:, 0], zoom), "byi,bihc->byhc")
        images = jnp.moveaxis(images, 1, 2)
        images = jnp.moveaxis(
            _resample(images, _weights(width, shift[:, 1], zoom), "byi,bihc->byhc"), 1, 2
        )
    if views.contrast:
        factor = 1.0 + jax.random.uniform(
            contrast_key, (batch, 1, 1, 1), minval=-views.contrast, maxval=views.contrast
        )
        images = images * factor
    if views.noise:
        images = images + views.noise * jax.random.normal(noise_key, images.shape)
    return images


def _weights(size: int, shift: Array, zoom: Array) -> Float[Array, "batch size size"]:
    """Linear interpolation along an axis as a matrix, which is quick on every device."""
    places = jnp.arange(size, dtype=jnp.float32)
    middle = (size - 1) / 2
    wanted = (places[None] - middle) / zoom[:, None] + middle + shift[:, None]
    wanted = jnp.clip(wanted, 0.0, size - 1.0)
    return jnp.maximum(1.0 - jnp.abs(wanted[:, :, None] - places[None, None]), 0.0)


def _resample(images: Array, weights: Array, axes: str) -> Array:
    return jnp.einsum(axes, weights, images)
