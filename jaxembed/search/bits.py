"""Bits packed in words of 32, and how many of them differ."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

WORD = 32


def pack_bits(is_set: Bool[Array, "*batch dim"]) -> UInt32[Array, "*batch words"]:
    """Packs 32 numbers a word, the first in the lowest bit.

    Args:
        is_set: True for a bit that is set; missing ones of the last word are not.

    Returns:
        The words.
    """
    batch, dim = is_set.shape[:-1], is_set.shape[-1]
    bits = jnp.pad(is_set.astype(jnp.uint32), [(0, 0)] * len(batch) + [(0, -dim % WORD)])
    shifts = jnp.arange(WORD, dtype=jnp.uint32).reshape((1,) * (len(batch) + 1) + (WORD,))
    return jnp.sum(bits.reshape(*batch, -1, WORD) << shifts, axis=-1, dtype=jnp.uint32)


def unpack_bits(bits: UInt32[Array, "count words"], dim: int) -> Float[Array, "count dim"]:
    """Unpacks what `pack_bits` packed.

    Args:
        bits: Words.
        dim: Numbers a row.

    Returns:
        1 for a bit that is set, -1 for others.
    """
    shifts = jnp.arange(WORD, dtype=jnp.uint32)[None, None, :]
    signs = (bits[:, :, None] >> shifts) & jnp.uint32(1)
    return 2.0 * signs.reshape(bits.shape[0], -1)[:, :dim].astype(jnp.float32) - 1.0


def hamming_distances(
    first: UInt32[Array, "*batch words"], second: UInt32[Array, "*batch words"]
) -> Int[Array, "*batch"]:
    """Counts differing bits of packed codes.

    Args:
        first: Codes.
        second: Codes.

    Returns:
        0 to 32 times the number of words.
    """
    return lax.population_count(first ^ second).astype(jnp.int32).sum(axis=-1)


def differing_bits(
    left: UInt32[Array, "left words"], right: UInt32[Array, "right words"]
) -> Int[Array, "left right"]:
    """Counts the bits in which every row of one matrix differs from every row of another."""

    def count(row):
        return jnp.sum(lax.population_count(row[None, :] ^ right), axis=1).astype(jnp.int32)

    return lax.map(count, left, batch_size=8)
