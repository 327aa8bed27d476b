"""Random views of images: pure functions of a key, to be called inside a training step."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def random_crop(
    images: Float[Array, "batch height width channels"],
    key: Key[Array, ""],
    *,
    smallest: float,
) -> Float[Array, "batch height width channels"]:
    """Cuts a part out of each image and scales it to the whole size.

    Args:
        images: Images.
        key: Decides places and sizes; each image has its own.
        smallest: The least share of the area that is kept, above 0 and at most 1; shares are
            uniform from it to 1. The proportions stay.

    Returns:
        Images of the same size, interpolated linearly.

    Raises:
        ValueError: If `smallest` is out of range.

    Reference: Chen et al., 2020, https://arxiv.org/abs/2002.05709, appendix A, without the change
    of proportions.
    """
    if not 0 < smallest <= 1:
        raise ValueError(f"smallest is {smallest}: give a share of the area, above 0 and up to 1.")
    batch, *size, _ = images.shape
    share_key, place_key = jax.random.split(key)
    shares = jax.random.uniform(share_key, (batch, 1), minval=smallest, maxval=1.0)
    kept = jnp.sqrt(shares)  # of each side
    sides = jnp.array(size, jnp.float32)[None, :]
    starts = jax.random.uniform(place_key, (batch, 2)) * (1.0 - kept) * sides

    def crop(image, kept, start):
        scale = jnp.broadcast_to(1.0 / kept, (2,))
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -start * scale, "linear", antialias=False
        )

    return jax.vmap(crop)(images, kept, starts)


def random_shift(
    images: Float[Array, "batch height width channels"], key: Key[Array, ""], *, most: int
) -> Float[Array, "batch height width channels"]:
    """Moves each image by whole pixels; zeros come in from outside.

    Args:
        images: Images.
        key: Decides the shifts; each image has its own.
        most: Largest shift in pixels, the same along both axes and in both directions.

    Returns:
        Images of the same size.

    Raises:
        ValueError: If `most` is below 0.
    """
    if most < 0:
        raise ValueError(f"most is {most}: give 0 or more pixels.")
    edges = ((0, 0), (most, most), (most, most), (0, 0))
    padded = jnp.pad(images, edges)
    starts = jax.random.randint(key, (images.shape[0], 2), 0, 2 * most + 1)

    def move(image, start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(move)(padded, starts)


def add_noise(
    images: Float[Array, "batch height width channels"], key: Key[Array, ""], *, deviation: float
) -> Float[Array, "batch height width channels"]:
    """Adds Gaussian noise to pixels, and keeps them from 0 to 1.

    Args:
        images: Images from 0 to 1.
        key: Decides the noise.
        deviation: Its standard deviation, 0 or more.

    Returns:
        Images from 0 to 1.

    Raises:
        ValueError: If `deviation` is below 0.
    """
    if deviation < 0:
        raise ValueError(f"deviation is {deviation}: give 0 or more.")
    noise = deviation * jax.random.normal(key, images.shape, images.dtype)
    return jnp.clip(images + noise, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Views:
    """How an image is varied; the default leaves it as it is.

    Attributes:
        shift: Most pixels by which it is moved up, down, left or right; what enters repeats the
            edge.
        zoom: Largest share by which it is made larger or smaller about its middle.
        stretch: Largest share by which it is made higher and at once narrower, or the reverse.
        contrast: Largest share by which its values are stretched or shrunk.
        noise: Standard deviation of what is added to its values, which go from -1 to 1.
    """

    shift: int = 0
    zoom: float = 0.0
    stretch: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or max(self.zoom, self.stretch) >= 1:
            raise ValueError(f"{self}: give 0 or more of each, less than 1 for zoom and stretch.")


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
    if views.shift or views.zoom or views.stretch:
        shift = jax.random.uniform(move_key, (batch, 2), minval=-views.shift, maxval=views.shift)
        zoom = _draw_factor(zoom_key, batch, views.zoom)
        stretch = _draw_factor(jax.random.fold_in(zoom_key, 1), batch, views.stretch)
        rows = _weights(height, shift[:, 0], zoom * stretch)
        columns = _weights(width, shift[:, 1], zoom / stretch)
        images = jnp.moveaxis(_resample(images, rows, "byi,bihc->byhc"), 1, 2)
        images = jnp.moveaxis(_resample(images, columns, "byi,bihc->byhc"), 1, 2)
    if views.contrast:
        factor = 1.0 + jax.random.uniform(
            contrast_key, (batch, 1, 1, 1), minval=-views.contrast, maxval=views.contrast
        )
        images = images * factor
    if views.noise:
        images = images + views.noise * jax.random.normal(noise_key, images.shape)
    return images


def _draw_factor(key: Key[Array, ""], count: int, share: float) -> Float[Array, "count"]:
    """Factors about 1, as likely x as 1 / x."""
    limit = jnp.log1p(share)
    return jnp.exp(jax.random.uniform(key, (count,), minval=-limit, maxval=limit))


def scale_to_ink(
    images: Float[Array, "batch height width channels"], *, threshold: float = -0.5
) -> Float[Array, "batch height width channels"]:
    """Enlarges what is drawn on black until it reaches the edges.

    Args:
        images: Images with values from -1, the ground, to 1.
        threshold: What is above it in any channel is drawn.

    Returns:
        Images of the same size and dtype, height and width enlarged alike, the drawing in the
        middle; images without any are left as they are.
    """
    is_ink = jnp.max(images, axis=3) > threshold
    size = images.shape[1:3]
    starts, spans = [], []
    for other, length in zip((2, 1), size, strict=True):
        lines = jnp.any(is_ink, axis=other)
        end = jnp.where(jnp.any(lines, axis=1), length - jnp.argmax(lines[:, ::-1], axis=1), length)
        start = jnp.argmax(lines, axis=1)
        starts.append(start.astype(jnp.float32))
        spans.append((end - start).astype(jnp.float32))
    zoom = jnp.minimum(size[0] / spans[0], size[1] / spans[1])
    ink = images.astype(jnp.float32) + 1.0
    for start, span, length in zip(starts, spans, size, strict=True):
        shift = start + 0.5 * span - 0.5 * length
        # Twice: rows, then columns, which take the rows' place.
        ink = jnp.moveaxis(
            _resample(ink, _weights(length, shift, zoom, repeat_edge=False), "byi,bihc->byhc"), 1, 2
        )
    return (ink - 1.0).astype(images.dtype)


def _weights(
    size: int, shift: Array, zoom: Array, *, repeat_edge: bool = True
) -> Float[Array, "batch size size"]:
    """Linear interpolation along an axis as a matrix, which is quick on every device."""
    places = jnp.arange(size, dtype=jnp.float32)
    middle = (size - 1) / 2
    wanted = (places[None] - middle) / zoom[:, None] + middle + shift[:, None]
    if repeat_edge:
        wanted = jnp.clip(wanted, 0.0, size - 1.0)
    return jnp.maximum(1.0 - jnp.abs(wanted[:, :, None] - places[None, None]), 0.0)


def _resample(images: Array, weights: Array, axes: str) -> Array:
    return jnp.einsum(axes, weights, images)
