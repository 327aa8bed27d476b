"""Sign random projections: random directions, packed signs, and estimates of products from them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, UInt32

from jaxembed.search.bits import WORD, pack_bits

# Queries are quantized to so many bits a projection, one packed word a bit.
QUERY_PLANES = 4


class Coded(NamedTuple):
    """Queries as the estimator wants them: 4-bit projections, bit by bit in packed words.

    Attributes:
        planes: Bit j of the projections' levels.
        step: Size of a level.
        offset: What a code without ones scores, in steps of 1.
    """

    planes: UInt32[Array, "queries planes words"]
    step: Float[Array, "queries"]
    offset: Float[Array, "queries"]


@functools.partial(jax.jit, static_argnums=(1, 2))
def gaussian_directions(key: jax.Array, count: int, dim: int) -> Float32[Array, "count dim"]:
    """Draws independent directions, for which `collision_probability` is exact at any length.

    Args:
        key: Random key.
        count: How many.
        dim: Dimensions.

    Returns:
        Unit vectors.
    """
    rows = jax.random.normal(key, (count, dim))
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(1, 2))
def orthogonal_directions(key: jax.Array, count: int, dim: int) -> Float32[Array, "count dim"]:
    """Draws directions that are orthogonal within each `dim` of them.

    Each alone is uniform, so one bit collides as `collision_probability` says; the number of equal
    bits has a smaller variance than with independent directions (Ji et al. 2012, theorem 2).

    Args:
        key: Random key.
        count: How many.
        dim: Dimensions.

    Returns:
        Unit vectors.
    """
    blocks = jax.random.normal(key, (-(-count // dim), dim, dim))
    rotations, triangles = jnp.linalg.qr(blocks)
    # Signs of the diagonal make the rotations uniform whatever the library's convention.
    signs = jnp.where(jnp.diagonal(triangles, axis1=1, axis2=2) < 0, -1.0, 1.0)
    return (rotations * signs[:, None, :]).transpose(0, 2, 1).reshape(-1, dim)[:count]


def sign_codes(
    vectors: Float[Array, "count dim"], directions: Float[Array, "bits dim"]
) -> UInt32[Array, "count words"]:
    """Packs the signs of projections: bit 1 where a vector lies on the side of the direction.

    Args:
        vectors: Vectors; a zero vector has all ones.
        directions: A multiple of 32 directions.

    Returns:
        Codes; bit i of word w stands for direction `32 w + i`.

    Raises:
        ValueError: If the number of directions is not a multiple of 32.
    """
    if directions.shape[0] % WORD:
        raise ValueError(f"{directions.shape[0]} directions: wanted a multiple of {WORD}.")
    return pack_bits(project(vectors, directions) >= 0)


def project(
    vectors: Float[Array, "count dim"], directions: Float[Array, "bits dim"]
) -> Float[Array, "count bits"]:
    """The product of each vector with each direction."""
    return jnp.matmul(vectors, directions.T, precision=lax.Precision.HIGHEST)


def collision_probability(
    cosines: float | Float[Array | np.ndarray, "*batch"], *, bits: int = 1, tables: int = 1
) -> Float[Array, "*batch"]:
    """States the probability that two vectors share a bucket in at least one table.

    Args:
        cosines: Their cosines.
        bits: Bits of a key, of independent directions.
        tables: Number of tables.

    Returns:
        1 - (1 - (1 - angle / pi)^bits)^tables.

    Reference: Goemans & Williamson 1995, lemma 3.2; Charikar 2002, section 3.
    """
    share = 1.0 - jnp.arccos(jnp.clip(cosines, -1.0, 1.0)) / jnp.pi
    return 1.0 - (1.0 - share**bits) ** tables


def encode_queries(projected: Float[Array, "queries bits"]) -> Coded:
    """Quantizes projections of queries to 4 bits, symmetric about 0."""
    top = 2**QUERY_PLANES - 1
    limit = jnp.max(jnp.abs(projected), axis=1)
    limit = jnp.where(limit == 0, 1.0, limit)
    levels = jnp.round((projected / limit[:, None] + 1.0) * (top / 2)).astype(jnp.uint32)
    planes = [
        pack_bits(levels >> jnp.uint32(bit) & jnp.uint32(1) == 1) for bit in range(QUERY_PLANES)
    ]
    # A level stands for (2 level / top - 1) limit, a code's bit for 2 bit - 1.
    offset = projected.shape[1] - 2.0 / top * levels.sum(axis=1, dtype=jnp.uint32).astype(
        jnp.float32
    )
    return Coded(jnp.stack(planes, axis=1), limit, offset)


def estimate_products(
    coded: Coded,
    codes: UInt32[Array, "words count"],
    lengths: Float[Array, "count"],
    dim: int,
) -> Float[Array, "count"]:
    """Estimates one query's inner products with vectors from their codes.

    Args:
        coded: One row of `encode_queries`.
        codes: Words of the codes; the vectors lie along the last axis.
        lengths: Of the vectors.
        dim: Number of dimensions of the vectors.

    Returns:
        Estimates; their order is better than their values.
    """
    # Word by word over many vectors: a sum along the last axis is six times slower on CPU.
    ones, weighted = jnp.zeros((2, codes.shape[1]), jnp.uint32)
    for word, bits in enumerate(codes):
        ones += lax.population_count(bits)
        for plane in range(QUERY_PLANES):
            shared = lax.population_count(bits & coded.planes[plane, word])
            weighted += shared << jnp.uint32(plane)
    top = 2**QUERY_PLANES - 1
    products = 4.0 / top * weighted.astype(jnp.float32) - 2.0 * ones.astype(jnp.float32)
    bits = WORD * codes.shape[0]
    # A projection on a random direction has a mean absolute value of sqrt(2 / (pi dim)).
    scale = coded.step * (math.sqrt(math.pi * dim / 2) / bits)
    return (products + coded.offset) * (scale * lengths)
