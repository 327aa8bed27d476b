"""Image towers: the vision Transformer and a ResNet without batch statistics."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxembed.nn.augmentation import scale_to_ink
from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.pooling import AttentionPooling
from jaxembed.nn.transformer import TransformerLayer

Pixels = Float[Array, "batch height width channels"] | UInt8[Array, "batch height width channels"]
VisionPooling = Literal["class", "mean", "attention"]


class VisionSize(NamedTuple):
    """Sizes of a vision Transformer: of its vectors, its layers and their parts."""

    width: int
    layers: int
    hidden: int
    heads: int


# Ti, S: Touvron et al., 2021, https://arxiv.org/abs/2012.12877, table 1; B, L, H: Dosovitskiy et
# al., 2021, https://arxiv.org/abs/2010.11929, table 1; g, G: Zhai et al., 2022,
# https://arxiv.org/abs/2106.04560, table 2; So400m: Alabdulmohsin et al., 2023,
# https://arxiv.org/abs/2305.13035, section 4.
VISION_SIZES: Mapping[str, VisionSize] = MappingProxyType(
    {
        "Ti": VisionSize(192, 12, 768, 3),
        "S": VisionSize(384, 12, 1536, 6),
        "B": VisionSize(768, 12, 3072, 12),
        "L": VisionSize(1024, 24, 4096, 16),
        "H": VisionSize(1280, 32, 5120, 16),
        "So400m": VisionSize(1152, 27, 4304, 16),
        "g": VisionSize(1408, 40, 6144, 16),
        "G": VisionSize(1664, 48, 8192, 16),
    }
)


class VisionTransformer(nn.Module):
    """Transformer over the patches of an image.

    Attributes:
        image: Height, width and channels of the images; empty until the data decide it.
        patch: Height and width of a patch; divides those of the images.
        width: Size of the vectors.
        layers: Transformer layers, normalised before each part and behind the last.
        hidden: Size of the feed-forward networks' middle.
        heads: Attention heads.
        activation: A name in `ACTIVATIONS`.
        pool: What stands for the image: the vector of an additional "class" token, the mean over
            patches, or an attention head over them.
        patch_bias: Whether the map of patches has a bias; CLIP's has none.
        input_norm: Normalise what goes into the first layer, as CLIP does.
        dropout: Probability of dropping a part's output.
        epsilon: Added to the variance in layer normalisation.

    Reference: Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929, section 3.1; "attention":
    Zhai et al., 2022, https://arxiv.org/abs/2106.04560, section 3.2.
    """

    image: tuple[int, ...] = ()
    patch: int = 16
    width: int = 768
    layers: int = 12
    hidden: int = 3072
    heads: int = 12
    activation: str = "gelu"
    pool: VisionPooling = "class"
    patch_bias: bool = True
    input_norm: bool = False
    dropout: float = 0.0
    epsilon: float = 1e-6

    def setup(self):
        """The parts by name."""
        if len(self.image) != 3 or self.image[0] % self.patch or self.image[1] % self.patch:
            raise ValueError(
                f"image is {self.image}, patch {self.patch}: give height, width and channels, and "
                "a patch that divides the first two."
            )
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}: give 1 or more.")
        if self.pool not in get_args(VisionPooling):
            choices = ", ".join(get_args(VisionPooling))
            raise ValueError(f"pool is {self.pool!r}: choose one of {choices}.")
        spread = nn.initializers.normal(0.02)
        self.embedding = Dense(self.width, use_bias=self.patch_bias)
        places = (self.image[0] // self.patch) * (self.image[1] // self.patch)
        if self.pool == "class":
            self.class_token = self.param("class_token", spread, (self.width,))
            places += 1
        self.positions = self.param("positions", spread, (places, self.width))
        if self.input_norm:
            self.start_norm = LayerNorm(self.epsilon)
        self.blocks = [
            TransformerLayer(
                width=self.width,
                heads=self.heads,
                hidden=self.hidden,
                activation=self.activation,
                norm="pre",
                dropout=self.dropout,
                epsilon=self.epsilon,
            )
            for _ in range(self.layers)
        ]
        self.norm = LayerNorm(self.epsilon)
        if self.pool == "attention":
            self.head = AttentionPooling(
                self.width, self.heads, self.hidden, self.activation, self.epsilon
            )
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, images: Pixels, *, deterministic: bool = True) -> Float[Array, "batch dim"]:
        """Encodes images.

        Args:
            images: Floats, or bytes as `scale_bytes` takes them.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            One vector an image.

        Raises:
            ValueError: If the images are not of the size that the model is for.
        """
        if images.shape[1:] != self.image:
            raise ValueError(f"images are {images.shape[1:]}, but the model is for {self.image}.")
        x = self.embedding(cut_patches(scale_bytes(images), self.patch))
        if self.pool == "class":
            token = jnp.broadcast_to(self.class_token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        x = self.drop(x + self.positions[None].astype(x.dtype), deterministic=deterministic)
        if self.input_norm:
            x = self.start_norm(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, deterministic=deterministic)
        if self.pool == "class":
            first = jnp.zeros(x.shape[:1], jnp.int32)
            return self.norm(last.at(x, first, deterministic=deterministic))
        x = self.norm(last(x, deterministic=deterministic))
        return self.head(x) if self.pool == "attention" else jnp.mean(x, axis=1)


class ResNet(nn.Module):
    """Residual convolutional network with group normalisation: no image sees another.

    Attributes:
        blocks: Blocks of each stage; each stage but the first halves height and width, and doubles
            the channels.
        channels: Of the first stage; a bottleneck puts out four times as many.
        bottleneck: Blocks of three convolutions, 1x1, 3x3 and 1x1, rather than of two 3x3.
        stem: "large" begins with a 7x7 convolution and a maximum, which quarter height and width;
            "medium" with a 5x5 convolution that halves them; "small" with a 3x3 convolution.
        pool: "mean" over places, or "flat" for the channels of all places side by side, which tells
            where things are and ties the parameters behind it to one size of image.
        with_ink: Look at each image a second time as `scale_to_ink` changes it, in further
            channels: for drawings on black, whose place and size say something, but not all.

    Reference: He et al., 2016, https://arxiv.org/abs/1512.03385, table 1 (50 layers by default);
    Wu & He, 2018, https://arxiv.org/abs/1803.08494, in place of batch normalisation.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    channels: int = 64
    bottleneck: bool = True
    stem: Literal["large", "medium", "small"] = "large"
    pool: Literal["mean", "flat"] = "mean"
    with_ink: bool = False

    @nn.compact
    def __call__(self, images: Pixels, *, deterministic: bool = True) -> Float[Array, "batch dim"]:
        """Encodes images; arguments as of `VisionTransformer`.

        Returns:
            The last stage's channels, pooled.
        """
        del deterministic
        x = scale_bytes(images)
        if self.with_ink:
            x = jnp.concatenate([x, scale_to_ink(x)], axis=3)
        side, stride = {"large": (7, 2), "medium": (5, 2), "small": (3, 1)}[self.stem]
        stem = nn.Conv(self.channels, (side,) * 2, stride, use_bias=False, name="stem_convolution")
        x = nn.relu(_group_norm(stem(x), "stem_norm"))
        if self.stem == "large":
            x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                name = f"stage_{stage}_block_{index}"
                x = _Block(self.channels << stage, stride, self.bottleneck, name=name)(x)
        return (
            x.reshape(x.shape[0], math.prod(x.shape[1:]))
            if self.pool == "flat"
            else jnp.mean(x, axis=(1, 2))
        )


class _Block(nn.Module):
    """A residual block; its last normalisation starts at 0, so that it starts as the identity."""

    channels: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w outputs"]:
        shapes = ((1, 1), (3, 3), (1, 1)) if self.bottleneck else ((3, 3), (3, 3))
        strided = 1 if self.bottleneck else 0
        outputs = self.channels * (4 if self.bottleneck else 1)
        y, last = x, len(shapes) - 1
        for place, shape in enumerate(shapes):
            count = outputs if place == last else self.channels
            stride = self.stride if place == strided else 1
            y = nn.Conv(count, shape, stride, use_bias=False, name=f"convolution_{place}")(y)
            y = _group_norm(y, f"norm_{place}", starts_at_zero=place == last)
            y = y if place == last else nn.relu(y)
        if x.shape != y.shape:
            x = nn.Conv(outputs, (1, 1), self.stride, use_bias=False, name="shortcut")(x)
            x = _group_norm(x, "shortcut_norm")
        return nn.relu(x + y)


def vision_size(size: str) -> dict[str, int]:
    """Attributes of a `VisionTransformer` of a size with a name.

    Args:
        size: A name in `VISION_SIZES` and the patch, "B/16" for example.

    Returns:
        Its `patch`, `width`, `layers`, `hidden` and `heads`.

    Raises:
        ValueError: If the size is unknown.
    """
    name, _, patch = size.partition("/")
    if name not in VISION_SIZES or not patch.isdecimal():
        raise ValueError(
            f"size is {size!r}: give one of {', '.join(VISION_SIZES)} and a patch, as in 'B/16'."
        )
    return {"patch": int(patch)} | VISION_SIZES[name]._asdict()


def cut_patches(
    images: Float[Array, "batch height width channels"], patch: int
) -> Float[Array, "batch patches pixels"]:
    """Cuts images into patches, row by row, each as its rows of pixels."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, rows, patch, columns, patch, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch**2 * channels)


def scale_bytes(images: Pixels) -> Float[Array, "batch height width channels"]:
    """Bytes as numbers from -1 to 1; floats as they are."""
    return images if images.dtype != jnp.uint8 else images.astype(jnp.float32) / 127.5 - 1.0


def _group_norm(x: Array, name: str, *, starts_at_zero: bool = False) -> Array:
    """32 groups as in the paper, or what divides the channels."""
    start = nn.initializers.zeros if starts_at_zero else nn.initializers.ones
    return nn.GroupNorm(math.gcd(32, x.shape[-1]), scale_init=start, name=name)(x)
