"""Two encoders into one space: queries and documents, images and sentences; CLIP and SigLIP."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxembed.models.bert import SentenceBert
from jaxembed.nn import (
    BagOfWords,
    Dense,
    ResNet,
    TextTransformer,
    VisionTransformer,
    vision_size,
)

Tower = VisionTransformer | ResNet | TextTransformer | BagOfWords | SentenceBert
SMALLEST_NORM = 1e-6
LARGEST_SCALE = 100.0


class DualEncoder(nn.Module):
    """A tower for queries and one for documents.

    A tower is a module called with a side's arrays, images or token ids and lengths, and
    `deterministic=`; it returns one vector a row.

    Attributes:
        query: Tower of the queries, for example of images.
        doc: Tower of the documents, for example of their captions; None shares the first and its
            projection.
        projection: Size of the common space, by a linear map behind each tower; 0 for none, where
            both towers' vectors are of one size.
        normalize: Scale vectors to length 1, in float32.
        start_scale: Factor of the inner products at the start; its logarithm is learned.
        start_bias: Bias of the logits at the start, learned as well; None for no bias.
    """

    query: Tower
    doc: Tower | None = None
    projection: int = 0
    normalize: bool = True
    start_scale: float = 1 / 0.07
    start_bias: float | None = None

    def setup(self):
        """What is learned beside the towers."""
        start = nn.initializers.constant(math.log(self.start_scale))
        self.log_scale = self.param("log_scale", start, ())
        if self.start_bias is not None:
            self.bias = self.param("bias", nn.initializers.constant(self.start_bias), ())
        if self.projection:
            self.query_projection = Dense(self.projection, use_bias=False)
            if self.doc is not None:
                self.doc_projection = Dense(self.projection, use_bias=False)

    def encode_query(self, *inputs: Array, deterministic: bool = True) -> Float[Array, "batch dim"]:
        """Vectors of queries.

        Args:
            *inputs: What the tower takes.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            Float32 vectors.
        """
        vectors = self.query(*inputs, deterministic=deterministic)
        return self._finish(self.query_projection(vectors) if self.projection else vectors)

    def encode_doc(self, *inputs: Array, deterministic: bool = True) -> Float[Array, "batch dim"]:
        """Vectors of documents; as `encode_query`."""
        if self.doc is None:
            return self.encode_query(*inputs, deterministic=deterministic)
        vectors = self.doc(*inputs, deterministic=deterministic)
        return self._finish(self.doc_projection(vectors) if self.projection else vectors)

    def scale_and_bias(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Factor and bias that turn inner products into logits, in float32."""
        scale = jnp.exp(self.log_scale.astype(jnp.float32))
        bias = 0.0 if self.start_bias is None else self.bias
        return scale, jnp.asarray(bias, jnp.float32)

    def __call__(
        self, query: tuple[Array, ...], doc: tuple[Array, ...], *, deterministic: bool = True
    ) -> Float[Array, "queries docs"]:
        """Logits of every query with every document.

        Args:
            query: Arrays of the queries' tower.
            doc: Arrays of the documents' tower.
            deterministic: As of `encode_query`.
        """
        queries = self.encode_query(*query, deterministic=deterministic)
        docs = self.encode_doc(*doc, deterministic=deterministic)
        scale, bias = self.scale_and_bias()
        return scale * (queries @ docs.T) + bias

    def _finish(self, vectors: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
        vectors = vectors.astype(jnp.float32)
        if not self.normalize:
            return vectors
        squares = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
        return vectors * jnp.minimum(
            1.0 / jnp.sqrt(jnp.maximum(squares, SMALLEST_NORM**2)), 1.0 / SMALLEST_NORM
        )


# The sizes of text towers beside those of images: Radford et al., 2021, table 20.
_CLIP_TEXT: Mapping[str, tuple[int, int]] = MappingProxyType({"B": (512, 8), "L": (768, 12)})


def make_clip(size: str = "B/32", *, image: int = 224, vocab: int = 49408) -> DualEncoder:
    """Makes CLIP of a size with a name.

    Args:
        size: "B/32", "B/16" or "L/14".
        image: Height and width of the images.
        vocab: Number of tokens.

    Returns:
        Images as queries, texts as documents.

    Raises:
        ValueError: If the size is unknown.

    Reference: Radford et al., 2021, https://arxiv.org/abs/2103.00020, section 2.4 and table 20.
    """
    name = size.partition("/")[0]
    if name not in _CLIP_TEXT:
        raise ValueError(f"size is {size!r}: CLIP was published in B/32, B/16 and L/14.")
    width, heads = _CLIP_TEXT[name]
    vision = VisionTransformer(
        image=(image, image, 3),
        **vision_size(size),
        activation="quick-gelu",
        patch_bias=False,
        input_norm=True,
        epsilon=1e-5,
    )
    text = TextTransformer(
        vocab,
        width,
        12,
        4 * width,
        heads,
        max_length=77,
        activation="quick-gelu",
        causal=True,
        pool="last",
    )
    return DualEncoder(vision, text, projection=width)


def make_siglip(size: str = "B/16", *, image: int = 224, vocab: int = 32000) -> DualEncoder:
    """Makes SigLIP of a size with a name; both towers are of that size.

    Args:
        size: A name in `VISION_SIZES` and the patch.
        image: Height and width of the images.
        vocab: Number of tokens.

    Returns:
        Images as queries, texts as documents.

    Raises:
        ValueError: If the size is unknown.

    Reference: Zhai et al., 2023, https://arxiv.org/abs/2303.15343, sections 3 and 4.
    """
    vision = VisionTransformer(
        image=(image, image, 3), **vision_size(size), activation="gelu-tanh", pool="attention"
    )
    text = TextTransformer(
        vocab,
        vision.width,
        vision.layers,
        vision.hidden,
        vision.heads,
        max_length=64,
        activation="gelu-tanh",
        pool="last",
        outputs=vision.width,
        epsilon=1e-6,
    )
    return DualEncoder(vision, text, start_scale=10.0, start_bias=-10.0)


def side_inputs(batch: Mapping[str, Any], side: str) -> tuple[Any, ...]:
    """The arrays of a side's tower in a batch: `query_pixels`, or `query_ids`, `query_lengths`."""
    if f"{side}_pixels" in batch:
        return (batch[f"{side}_pixels"],)
    return batch[f"{side}_ids"], batch[f"{side}_lengths"]
