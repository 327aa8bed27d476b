"""Vectors in one bit a number: compared by population count, or as unbiased estimates (RaBitQ)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, UInt32
from numpy.typing import ArrayLike

from jaxembed.search.exact import rescore as score_again
from jaxembed.search.exact import running_top_k
from jaxembed.search.index import (
    Index,
    Metric,
    Results,
    Where,
    allowed,
    check_ids,
    check_search,
    check_vectors,
    concatenate,
    prepare_queries,
    register_index,
    report,
    static,
)

WORD = 32


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class BinaryIndex(Index):
    """The sides of the mean that a vector's numbers lie on: 1/32 of float32, and the vectors.

    Candidates are those whose bits differ least from the query's; the vectors then order them.

    Attributes:
        bits: Packed as `pack_bits` does; a bit is set where the number is above the centre.
        centre: Mean of the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    bits: UInt32[Array, "size words"]
    centre: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        keep_vectors: bool = True,
    ) -> "BinaryIndex":
        """Makes an index, as `Index.build` says.

        Args:
            vectors: As in `Index.build`.
            metric: As in `Index.build`.
            key: Not used.
            ids: As in `Index.build`.
            keep_vectors: Keep the vectors beside the bits, to rescore with them.

        Returns:
            The index.

        Raises:
            ValueError: As `Index.build`.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = jnp.asarray(check_ids(ids, len(rows)))
        centre = jnp.asarray(rows.mean(axis=0, dtype=np.float64).astype(np.float32))
        kept = jnp.asarray(rows) if keep_vectors else None
        return cls(_side_bits(rows, centre), centre, kept, ids, metric)

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.centre.shape[0]

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        rescore: int = 4,
    ) -> Results:
        """Finds the k best vectors for each query, as `Index.search` says.

        Args:
            queries: As in `Index.search`.
            k: As in `Index.search`.
            where: As in `Index.search`.
            rescore: The `rescore * k` vectors with the fewest differing bits are scored again with
                the vectors themselves, if the index keeps them.

        Returns:
            As `Index.search`. Without the vectors a score for "dot" and "cosine" is the share of
            bits that agree minus that of bits that differ, from -1 to 1, and for "euclidean" the
            root of the number of bits that differ.

        Raises:
            ValueError: As `Index.search`, or if `rescore` is below 1.
        """
        check_search(queries, k, self.dim)
        _check_rescore(rescore)
        return _search_bits(self, queries, where, k=k, rescore=rescore)

    def _append(self, rows, ids):
        bits = concatenate([self.bits, _side_bits(rows, self.centre)])
        return _grown(self, rows, ids, bits=jnp.asarray(bits))

    def _keep(self, positions):
        return _kept(self, positions, bits=self.bits[positions])


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class RabitqIndex(Index):
    """One bit a number after a random rotation, with an unbiased estimate of each score.

    The direction o of a vector from the centre is replaced by the nearest corner b of a rotated
    hypercube. For any query q the estimate of <o, q> is <b, q> / <b, o>, unbiased over the
    rotations. Queries keep their float32; the paper rounds them to 4 bits at random, which adds
    variance and on these devices saves no time.

    Attributes:
        bits: Signs of the rotated directions, packed as `pack_bits` does.
        lengths: Distances of the vectors to the centre.
        alignments: <b, o>, from 0 to 1, about .8; 1 for a vector at the centre.
        rotation: Orthogonal matrix; rows times it are rotated.
        centre: Mean of the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.

    Reference: Gao and Long, 2024, https://arxiv.org/abs/2405.12497, theorem 3.2.
    """

    bits: UInt32[Array, "size words"]
    lengths: Float[Array, "size"]
    alignments: Float[Array, "size"]
    rotation: Float[Array, "dim dim"]
    centre: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        keep_vectors: bool = True,
    ) -> "RabitqIndex":
        """Makes an index, as `Index.build` says.

        Args:
            vectors: As in `Index.build`.
            metric: As in `Index.build`.
            key: Draws the rotation.
            ids: As in `Index.build`.
            keep_vectors: Keep the vectors beside the bits, to rescore with them.

        Returns:
            The index.

        Raises:
            ValueError: As `Index.build`.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = jnp.asarray(check_ids(ids, len(rows)))
        centre = jnp.asarray(rows.mean(axis=0, dtype=np.float64).astype(np.float32))
        rotation = _random_rotation(jax.random.key(0) if key is None else key, rows.shape[1])
        codes = _encode(rows, centre, rotation)
        return cls(
            *codes, rotation, centre, jnp.asarray(rows) if keep_vectors else None, ids, metric
        )

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.centre.shape[0]

    def estimate(
        self, queries: Num[Array | np.ndarray, "queries dim"]
    ) -> tuple[Float[Array, "queries size"], Float[Array, "queries size"]]:
        """Estimates the scores of all vectors, with their standard errors.

        Args:
            queries: Query vectors, scaled to length 1 for "cosine".

        Returns:
            Unbiased estimates, of the squared distance for "euclidean", and a standard error for
            each: |x - c| |q| sqrt((1 - a^2) / (a^2 (dim - 1))) with the alignment a, where q is the
            query, for "euclidean" twice its difference from the centre. It is an upper one: the
            part of the query along the vector adds no error.
        """
        queries, _ = prepare_queries(queries, self.metric)
        return _estimate(self, queries, 0, self.size)

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        rescore: int = 4,
    ) -> Results:
        """Finds the k best vectors for each query, as `Index.search` says, by the estimates.

        Args:
            queries: As in `Index.search`.
            k: As in `Index.search`.
            where: As in `Index.search`.
            rescore: The `rescore * k` best estimates are scored again with the vectors themselves,
                if the index keeps them.

        Returns:
            As `Index.search`. Without the vectors the scores are estimates; that of a distance is
            the root of an unbiased one of its square, 0 where that is negative.

        Raises:
            ValueError: As `Index.search`, or if `rescore` is below 1.
        """
        check_search(queries, k, self.dim)
        _check_rescore(rescore)
        return _search_estimates(self, queries, where, k=k, rescore=rescore)

    def _append(self, rows, ids):
        codes = _encode(rows, self.centre, self.rotation)
        old = (self.bits, self.lengths, self.alignments)
        joined = [jnp.asarray(concatenate(pair)) for pair in zip(old, codes, strict=True)]
        names = ("bits", "lengths", "alignments")
        return _grown(self, rows, ids, **dict(zip(names, joined, strict=True)))

    def _keep(self, positions):
        return _kept(
            self,
            positions,
            bits=self.bits[positions],
            lengths=self.lengths[positions],
            alignments=self.alignments[positions],
        )


def pack_bits(is_set: Bool[Array, "count dim"]) -> UInt32[Array, "count words"]:
    """Packs 32 numbers a word, the first in the lowest bit.

    Args:
        is_set: True for a bit that is set; missing ones of the last word are not.

    Returns:
        The words.
    """
    count, dim = is_set.shape
    bits = jnp.pad(is_set.astype(jnp.uint32), ((0, 0), (0, -dim % WORD)))
    shifts = jnp.arange(WORD, dtype=jnp.uint32)[None, None, :]
    return jnp.sum(bits.reshape(count, -1, WORD) << shifts, axis=2, dtype=jnp.uint32)


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


def differing_bits(
    left: UInt32[Array, "left words"], right: UInt32[Array, "right words"]
) -> Int[Array, "left right"]:
    """Counts the bits in which every row of one matrix differs from every row of another."""

    def count(row):
        return jnp.sum(lax.population_count(row[None, :] ^ right), axis=1).astype(jnp.int32)

    return lax.map(count, left, batch_size=8)


@jax.jit
def _side_bits(rows, centre):
    return pack_bits(jnp.asarray(rows) > centre[None, :])


@functools.partial(jax.jit, static_argnames="dim")
def _random_rotation(key, dim):
    """An orthogonal matrix from the uniform distribution over all of them."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (dim, dim)))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]


@jax.jit
def _encode(rows, centre, rotation):
    """Bits, lengths and alignments of rows."""
    differences = jnp.asarray(rows) - centre[None, :]
    lengths = jnp.sqrt(jnp.sum(differences * differences, axis=1))
    rotated = jnp.matmul(differences, rotation, precision=lax.Precision.HIGHEST)
    alignments = jnp.sum(jnp.abs(rotated), axis=1) / math.sqrt(rows.shape[1])
    alignments = jnp.where(lengths > 0, alignments / jnp.where(lengths > 0, lengths, 1.0), 1.0)
    return pack_bits(rotated > 0), lengths, alignments


def _estimate(index, queries, first, size):
    """Estimates and standard errors for the vectors from the one at `first` on."""
    dim = index.dim
    bits, lengths, alignments = (
        lax.dynamic_slice_in_dim(array, first, size)
        for array in (index.bits, index.lengths, index.alignments)
    )
    is_euclidean = index.metric == "euclidean"
    shifted = queries - index.centre[None, :] if is_euclidean else queries
    rotated = jnp.matmul(shifted, index.rotation, precision=lax.Precision.HIGHEST)
    products = jnp.matmul(rotated, unpack_bits(bits, dim).T, precision=lax.Precision.HIGHEST)
    # The corner is of length 1: its numbers are 1 or -1 over sqrt(dim).
    estimates = products * (lengths / (alignments * math.sqrt(dim)))[None, :]
    spread = jnp.sqrt(jnp.maximum(1.0 - alignments**2, 0.0) / max(dim - 1, 1)) / alignments
    squares = jnp.sum(shifted * shifted, axis=1)
    errors = jnp.sqrt(squares)[:, None] * (lengths * spread)[None, :]
    if is_euclidean:
        return squares[:, None] + (lengths**2)[None, :] - 2.0 * estimates, 2.0 * errors
    centre = jnp.sum(queries * index.centre[None, :], axis=1)
    return centre[:, None] + estimates, errors


@functools.partial(jax.jit, static_argnames=("k", "rescore"))
def _search_bits(index, queries, where, *, k, rescore):
    """What `BinaryIndex.search` returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    query_bits = pack_bits(queries > index.centre[None, :])
    mask = allowed(where, index.ids)

    def score_block(first, size):
        bits = lax.dynamic_slice_in_dim(index.bits, first, size)
        # In float32: on a CPU top_k of integers sorts everything.
        scores = -differing_bits(query_bits, bits).astype(jnp.float32)
        if mask is None:
            return scores
        return jnp.where(lax.dynamic_slice_in_dim(mask, first, size)[None, :], scores, -jnp.inf)

    def as_score(scores):
        if index.metric == "euclidean":
            return -jnp.sqrt(-scores)
        return 1.0 + 2.0 * scores / index.dim

    return _report(index, queries, score_block, as_score, k, rescore, is_finite)


@functools.partial(jax.jit, static_argnames=("k", "rescore"))
def _search_estimates(index, queries, where, *, k, rescore):
    """What `RabitqIndex.search` returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    mask = allowed(where, index.ids)
    is_euclidean = index.metric == "euclidean"

    def score_block(first, size):
        estimates, _ = _estimate(index, queries, first, size)
        scores = -estimates if is_euclidean else estimates
        if mask is None:
            return scores
        return jnp.where(lax.dynamic_slice_in_dim(mask, first, size)[None, :], scores, -jnp.inf)

    def as_score(scores):
        return -jnp.sqrt(jnp.maximum(-scores, 0.0)) if is_euclidean else scores

    return _report(index, queries, score_block, as_score, k, rescore, is_finite)


def _report(index, queries, score_block, as_score, k, rescore, is_finite):
    """Takes the best by codes, orders them by the vectors if there are any, and reports them."""
    found = min(k, index.size)
    kept = found if index.vectors is None else min(k * rescore, index.size)
    scores, positions = running_top_k(score_block, queries.shape[0], index.size, kept)
    if index.vectors is None:
        scores = jnp.where(positions < 0, -jnp.inf, as_score(scores))
    else:
        scores, positions = score_again(
            queries, index.vectors, positions, found, metric=index.metric
        )
    return report(scores, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def _grown(index, rows, ids, **codes):
    """The index with longer codes, and with more vectors and ids."""
    vectors = index.vectors
    if vectors is not None:
        vectors = jnp.asarray(concatenate([vectors, rows]))
    ids = jnp.asarray(concatenate([index.ids, ids]))
    return dataclasses.replace(index, vectors=vectors, ids=ids, **codes)


def _kept(index, positions, **codes):
    """The index with fewer codes, vectors and ids."""
    vectors = None if index.vectors is None else index.vectors[positions]
    return dataclasses.replace(index, vectors=vectors, ids=index.ids[positions], **codes)


def _check_rescore(rescore):
    if rescore < 1:
        raise ValueError(f"rescore is {rescore}: it must be at least 1.")
