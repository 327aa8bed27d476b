"""From a block of raw ids to the tiles that a step trains on: all on the device, by one key."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt32


class Stream(NamedTuple):
    """A block after subsampling, with the width of the window at every position.

    Attributes:
        tokens: Word ids; -1 ends a sentence or is padding. `window` paddings stand in front.
        sentences: Running number of the sentence that a position lies in.
        reach: Reduced window of each position, uniform in 1..window.
        length: Positions behind the front padding that hold the block's words and sentence ends.
    """

    tokens: Int32[Array, "positions"]
    sentences: Int32[Array, "positions"]
    reach: Int32[Array, "positions"]
    length: Int32[Array, ""]


class Tile(NamedTuple):
    """`length` consecutive positions of each of several streams, and the words around them.

    Attributes:
        words: Ids of the tile's positions with `window` more on both sides, 0 for padding.
        centres: Ids of the tile's positions, 0 for padding.
        pairs: True where the column's word is in the window of the row's centre, or the other way
            round, as `cut` was told.
    """

    words: Int32[Array, "streams columns"]
    centres: Int32[Array, "streams length"]
    pairs: Bool[Array, "streams length columns"]


def subsample(
    tokens: Int32[Array, "block"],
    keep: UInt32[Array, "vocab"],
    key: Array,
    *,
    window: int,
    padding: int,
) -> Stream:
    """Drops frequent words before any window is laid, and draws the windows.

    Args:
        tokens: Raw ids in the order of the text; -1 ends a sentence or pads the block's end.
        keep: A word stays where 32 uniform bits are <= keep[word], see `sampling.threshold`.
        key: Random key of this block.
        window: Largest distance between two words of a pair.
        padding: Positions of -1 to add behind the block.

    Returns:
        The kept words, front-aligned, in order.
    """
    keep_key, reach_key = jax.random.split(key)
    bits = jax.random.bits(keep_key, tokens.shape)
    stays = (tokens < 0) | (bits <= keep[jnp.maximum(tokens, 0)])
    # Of a run of -1 only the first matters, so padding never lengthens the stream.
    repeated = (tokens < 0) & (jnp.roll(tokens, 1).at[0].set(-1) < 0)
    stays = stays & ~repeated
    size = tokens.shape[0] + 2 * window + padding
    target = jnp.where(stays, window + jnp.cumsum(stays) - 1, size)
    kept = jnp.full(size, -1, jnp.int32).at[target].set(tokens, mode="drop", unique_indices=True)
    return Stream(
        tokens=kept,
        sentences=jnp.cumsum(kept < 0, dtype=jnp.int32),
        reach=jax.random.randint(reach_key, (size,), 1, window + 1),
        length=jnp.sum(stays, dtype=jnp.int32),
    )


def cut(
    stream: Stream,
    starts: Int32[Array, "streams"],
    *,
    length: int,
    window: int,
    by_input: bool,
) -> Tile:
    """Cuts one tile out of each stream.

    A pair (i, j) says that i's window reaches j. With `by_input` rows are the i and columns the j;
    without, rows are the j and columns the i. Over all tiles both give the same set of pairs.

    Args:
        stream: The block.
        starts: First position of each tile, counted without the front padding.
        length: Positions in a tile.
        window: Largest distance between two words of a pair.
        by_input: Whether the row's or the column's reach decides.
    """
    columns = length + 2 * window
    positions = starts[:, None] + jnp.arange(columns)[None]
    words = stream.tokens.at[positions].get(mode="promise_in_bounds")
    sentences = stream.sentences.at[positions].get(mode="promise_in_bounds")
    reach = stream.reach.at[positions].get(mode="promise_in_bounds")
    rows = slice(window, window + length)
    # A constant of numpy: XLA folds it into the comparison.
    distance = np.abs(np.arange(columns) - window - np.arange(length)[:, None])
    distance = np.where(distance == 0, columns, distance)[None]
    reach = reach[:, rows, None] if by_input else reach[:, None, :]
    pairs = (distance <= reach) & (sentences[:, rows, None] == sentences[:, None, :])
    pairs = pairs & (words[:, rows, None] >= 0) & (words[:, None, :] >= 0)
    words = jnp.maximum(words, 0)
    return Tile(words, words[:, rows], pairs)


def pair_counts(tile: Tile) -> Float[Array, "streams length"]:
    """Number of pairs of each row."""
    return jnp.sum(tile.pairs, axis=-1, dtype=jnp.float32)
