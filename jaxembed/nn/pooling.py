"""One vector of many: over the tokens of a sequence, over layers, over the pieces of a word."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxembed.nn.activations import ACTIVATIONS
from jaxembed.nn.attention import MultiHeadAttention
from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm

Pooling = Literal["class", "mean", "sum", "max", "last", "weighted-mean", "mean-sqrt"]
LayerPooling = Literal["mean", "sum", "concatenate"]
PiecePooling = Literal["first", "mean", "max"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

# Which of all hidden states (the embedding layer is number 0), and how they are put together.
LAYER_CHOICES: Mapping[str, tuple[tuple[int, ...], LayerPooling]] = MappingProxyType(
    {
        "last": ((-1,), "mean"),
        "second-to-last": ((-2,), "mean"),
        "mean-last-four": ((-4, -3, -2, -1), "mean"),
        "sum-last-four": ((-4, -3, -2, -1), "sum"),
        "concatenate-last-four": ((-4, -3, -2, -1), "concatenate"),
    }
)


def pool_tokens(
    states: Float[Array, "batch length width"],
    mask: Bool[Array, "batch length"],
    *,
    how: Pooling = "mean",
) -> Float[Array, "batch width"]:
    """One vector a sequence; what padding holds does not matter.

    Args:
        states: Vectors of the tokens.
        mask: True at real tokens, special ones included.
        how: "class", the first token; "mean", "sum" or "max" over the tokens; "last" token;
            "weighted-mean", token i with weight i from 1; "mean-sqrt", the sum over the square
            root of the count.

    Returns:
        The vectors; 0 where a sequence has no tokens.

    Raises:
        ValueError: If `how` is unknown.

    Reference: Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084, section 3;
    "weighted-mean": Muennighoff, 2022, https://arxiv.org/abs/2202.08904, eq. 3.
    """
    _check(how)
    if how == "max":
        floor = jnp.full_like(states, jnp.finfo(states.dtype).min)
        pooled = jnp.max(jnp.where(mask[..., None], states, floor), axis=1)
        return jnp.where(jnp.any(mask, axis=1, keepdims=True), pooled, jnp.zeros_like(pooled))
    states = jnp.where(mask[..., None], states, jnp.zeros_like(states))
    return jnp.sum(pooling_weights(mask, how=how).astype(states.dtype)[..., None] * states, axis=1)


def pooling_weights(
    mask: Bool[Array, "*axes length"], *, how: Pooling = "mean"
) -> Float32[Array, "*axes length"]:
    """What each token counts in a pooling that is a weighted sum, as all but "max" are.

    Args:
        mask: True at the tokens of a sequence.
        how: As in `pool_tokens`.

    Returns:
        The weights, 0 where the mask is False.

    Raises:
        ValueError: If `how` is unknown or "max".
    """
    _check(how)
    if how == "max":
        raise ValueError("the maximum is no weighted sum: use pool_tokens.")
    number = jnp.cumsum(mask, axis=-1)  # of a token in its sequence, from 1
    count = number[..., -1:]
    if how == "class":
        mask = mask & (number == 1)
    elif how == "last":
        mask = mask & (number == count)
    ones = mask.astype(jnp.float32)
    count = jnp.maximum(count, 1).astype(jnp.float32)
    if how == "mean":
        return ones / count
    if how == "mean-sqrt":
        return ones / jnp.sqrt(count)
    if how == "weighted-mean":
        return ones * number.astype(jnp.float32) * 2.0 / (count * (count + 1.0))
    return ones


def _check(how: str) -> None:
    if how not in POOLINGS:
        raise ValueError(f"Unknown pooling {how!r}: choose one of {', '.join(POOLINGS)}.")


def pool_layers(
    states: Sequence[Float[Array, "*axes width"]],
    layers: str | Sequence[int] = "last",
    *,
    how: LayerPooling = "mean",
) -> Float[Array, "*axes dim"]:
    """One vector of those that several layers give.

    Args:
        states: All hidden states; the embedding layer is number 0.
        layers: A name in `LAYER_CHOICES`, which also says how; or numbers of layers, where -1 is
            the last.
        how: "mean", "sum", or "concatenate" in the order of `layers`.

    Returns:
        The vectors, wider only if concatenated.

    Raises:
        ValueError: If a name is unknown or a number is out of range.

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, table 7.
    """
    if isinstance(layers, str):
        if layers not in LAYER_CHOICES:
            raise ValueError(
                f"Unknown layers {layers!r}: choose one of {', '.join(LAYER_CHOICES)}, or give "
                "their numbers."
            )
        layers, how = LAYER_CHOICES[layers]
    if how not in get_args(LayerPooling):
        raise ValueError(f"how is {how!r}: choose one of {', '.join(get_args(LayerPooling))}.")
    count = len(states)
    if not layers or not all(-count <= layer < count for layer in layers):
        raise ValueError(
            f"layers are {tuple(layers)}: give one or more from {-count} to {count - 1}, 0 is the "
            "embedding layer."
        )
    chosen = [states[layer] for layer in layers]
    if how == "concatenate":
        return jnp.concatenate(chosen, axis=-1)
    total = sum(chosen[1:], start=chosen[0])
    return total if how == "sum" else total / len(chosen)


def pool_pieces(
    states: Float[Array, "batch length width"],
    words: Int[Array, "batch length"],
    count: int,
    *,
    how: PiecePooling = "mean",
) -> Float[Array, "batch {count} width"]:
    """One vector a word of those of its pieces.

    Args:
        states: Vectors of the tokens.
        words: Number of the word that a token is a piece of, from 0; -1 for special tokens and
            padding.
        count: Words to make room for; pieces of later ones are left out.
        how: The "first" piece, or the "mean" or "max" over all.

    Returns:
        The vectors; 0 for a word without pieces.

    Raises:
        ValueError: If `how` is unknown.

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 5.3, takes the
    first piece.
    """
    if how not in get_args(PiecePooling):
        raise ValueError(f"how is {how!r}: choose one of {', '.join(get_args(PiecePooling))}.")

    def pool(states, words):
        # Out of range is left out.
        places = jnp.where(words < 0, count, words)
        if how == "max":
            highest = jax.ops.segment_max(states, places, count)
            return jnp.where(jnp.isfinite(highest), highest, jnp.zeros_like(highest))
        is_counted = jnp.ones_like(states[:, :1])
        if how == "first":
            numbers = jnp.arange(len(words), dtype=jnp.int32)
            firsts = jax.ops.segment_min(numbers, places, count + 1)
            is_counted = (firsts[jnp.minimum(places, count)] == numbers)[:, None]
            is_counted = is_counted.astype(states.dtype)
        total = jax.ops.segment_sum(states * is_counted, places, count)
        pieces = jax.ops.segment_sum(is_counted, places, count)
        return total / jnp.maximum(pieces, jnp.ones_like(pieces))

    return jax.vmap(pool)(states, words)


class AttentionPooling(nn.Module):
    """A learned query that attends to all tokens, and a feed-forward network behind it.

    Attributes:
        width: Size of the vectors.
        heads: Attention heads.
        hidden: Size of the feed-forward network's middle.
        activation: A name in `ACTIVATIONS`.
        epsilon: Added to the variance in layer normalisation.

    Reference: Zhai et al., 2022, https://arxiv.org/abs/2106.04560, section 3.4 (MAP head).
    """

    width: int
    heads: int
    hidden: int
    activation: str = "gelu-tanh"
    epsilon: float = 1e-6

    def setup(self):
        """The query and its layer."""
        self.query = self.param(
            "query", nn.initializers.normal(self.width**-0.5), (1, 1, self.width)
        )
        self.attention = MultiHeadAttention(self.width, self.heads)
        self.norm = LayerNorm(self.epsilon)
        self.widen = Dense(self.hidden)
        self.narrow = Dense(self.width)

    def __call__(
        self,
        states: Float[Array, "batch length width"],
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch width"]:
        """One vector a sequence.

        Args:
            states: Vectors of the tokens or patches.
            mask: True at real ones; None for all.
        """
        query = jnp.broadcast_to(self.query, (states.shape[0], 1, self.width)).astype(states.dtype)
        mask = None if mask is None else mask[:, None]
        pooled = self.attention(query, self.attention.project(states), mask)
        hidden = ACTIVATIONS[self.activation](self.widen(self.norm(pooled)))
        return (pooled + self.narrow(hidden))[:, 0]
