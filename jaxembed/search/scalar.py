"""Vectors in 8 or 4 bits a number: calibrated per dimension, clipped, with error bars."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int8, Num, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.exact import SPARE_CANDIDATES, rescore, running_top_k
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

CALIBRATION_ROWS = 10_000
# Shares of the range, from the middle outwards, among which each dimension takes the best.
CLIPPINGS = np.asarray([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4])


class _ScalarIndex(Index):
    """What indices of scalar codes share: a number is offset + scale * code, by dimension."""

    codes: Any
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.scale.shape[0]

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        rescore: int = 4,
    ) -> Results:
        """Finds the k best vectors for each query, as `Index.search` says, by their codes.

        Queries keep their float32.

        Args:
            queries: As in `Index.search`.
            k: As in `Index.search`.
            where: As in `Index.search`.
            rescore: Where the index keeps the vectors, the best `rescore * k` by codes are scored
                with these; no effect otherwise.

        Returns:
            As `Index.search`. Without the vectors the scores are those of the decoded codes, which
            are off by about `score_error`.

        Raises:
            ValueError: As `Index.search`, or if `rescore` is below 1.
        """
        check_search(queries, k, self.dim)
        if rescore < 1:
            raise ValueError(f"rescore is {rescore}: it must be at least 1.")
        return _search(self, queries, where, k=k, times=rescore)

    def decode(self) -> Float[Array, "size dim"]:
        """Gives the vectors that the codes stand for."""
        return self._decode(self.codes)

    def score_error(
        self, queries: Num[Array | np.ndarray, "queries dim"]
    ) -> Float[Array, "queries"]:
        """Estimates how far scores by codes are from those of the vectors themselves.

        Args:
            queries: Query vectors.

        Returns:
            For "dot" and "cosine" the standard deviation of the score: the root of the sum of
            squared products of the query with each dimension's error. For "euclidean" the
            root-mean-square length of the error of a vector, which by the triangle inequality
            bounds that of its distances.
        """
        queries, _ = prepare_queries(queries, self.metric)
        if self.metric == "euclidean":
            return jnp.full(queries.shape[0], jnp.sqrt(jnp.sum(self.error**2)))
        return jnp.sqrt(jnp.sum((queries * self.error[None, :]) ** 2, axis=1))

    def _block(self, first, size) -> Float[Array, "block dim"]:
        """Decoded vectors from the one at `first` on."""
        return self._decode(lax.dynamic_slice_in_dim(self.codes, first, size))

    def _append(self, rows, ids):
        codes = concatenate([self.codes, self._encode(rows, self.scale, self.offset)])
        vectors = self.vectors
        if vectors is not None:
            vectors = jnp.asarray(concatenate([vectors, rows]))
        ids = jnp.asarray(concatenate([self.ids, ids]))
        return dataclasses.replace(self, codes=jnp.asarray(codes), vectors=vectors, ids=ids)

    def _keep(self, positions):
        vectors = None if self.vectors is None else self.vectors[positions]
        return dataclasses.replace(
            self, codes=self.codes[positions], vectors=vectors, ids=self.ids[positions]
        )

    @classmethod
    def _build(cls, vectors, levels, lowest, metric, ids, keep_vectors):
        """Calibrates on an even sample of the rows and encodes all of them."""
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION_ROWS)).astype(int)]
        scale, offset = calibrate(sample, levels=levels, lowest=lowest)
        codes = jnp.asarray(cls._encode(rows, scale, offset))
        kept = jnp.asarray(rows) if keep_vectors else None
        index = cls(
            codes=codes,
            scale=jnp.asarray(scale),
            offset=jnp.asarray(offset),
            error=jnp.zeros(rows.shape[1]),
            vectors=kept,
            ids=jnp.asarray(ids),
            metric=metric,
        )
        step = max(1, len(rows) // CALIBRATION_ROWS)
        differences = rows[::step] - np.asarray(index._decode(codes[::step]))
        error = np.sqrt(np.mean(np.square(differences, dtype=np.float64), axis=0))
        return dataclasses.replace(index, error=jnp.asarray(error, jnp.float32))


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class Int8Index(_ScalarIndex):
    """One byte a number, a quarter of float32.

    Attributes:
        codes: -128 to 127; a number is offset + scale * code.
        scale: Step between two codes, by dimension, above 0.
        offset: What code 0 stands for, by dimension.
        error: Root of the mean squared error, by dimension, measured on the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    codes: Int8[Array, "size dim"]
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]
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
        keep_vectors: bool = False,
    ) -> "Int8Index":
        """Makes an index, as `Index.build` says; `key` is not used.

        Args:
            vectors: As in `Index.build`; up to 10,000 of them choose the ranges.
            metric: As in `Index.build`.
            key: Not used.
            ids: As in `Index.build`.
            keep_vectors: Keep the vectors beside the codes, to rescore with them.

        Returns:
            The index.

        Raises:
            ValueError: As `Index.build`.
        """
        return cls._build(vectors, 256, -128, metric, ids, keep_vectors)

    @staticmethod
    def _encode(rows, scale, offset):
        return quantize(rows, scale, offset, lowest=-128, highest=127).astype(np.int8)

    def _decode(self, codes):
        return self.offset[None, :] + self.scale[None, :] * codes.astype(jnp.float32)


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class Int4Index(_ScalarIndex):
    """Half a byte a number, an eighth of float32.

    Attributes:
        codes: Two codes a byte, 0 to 15 each: that of the first half of the dimensions in the low
            bits, that of the second half in the high ones.
        scale: Step between two codes, by dimension, above 0.
        offset: What code 0 stands for, by dimension.
        error: Root of the mean squared error, by dimension, measured on the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    codes: UInt8[Array, "size half"]
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]
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
        keep_vectors: bool = False,
    ) -> "Int4Index":
        """Makes an index; all is as in `Int8Index.build`."""
        return cls._build(vectors, 16, 0, metric, ids, keep_vectors)

    @staticmethod
    def _encode(rows, scale, offset):
        codes = quantize(rows, scale, offset, lowest=0, highest=15).astype(np.uint8)
        half = -(-codes.shape[1] // 2)
        low = codes[:, :half].copy()
        low[:, : codes.shape[1] - half] |= codes[:, half:] << 4
        return low

    def _decode(self, codes):
        halves = jnp.concatenate([codes & jnp.uint8(15), codes >> jnp.uint8(4)], axis=1)
        codes = halves[:, : self.dim].astype(jnp.float32)
        return self.offset[None, :] + self.scale[None, :] * codes


def calibrate(
    sample: Float[np.ndarray, "count dim"], *, levels: int, lowest: int
) -> tuple[Float[np.ndarray, "dim"], Float[np.ndarray, "dim"]]:
    """Chooses for each dimension the range whose rounding and clipping err least together.

    Args:
        sample: Vectors like those to be encoded.
        levels: Number of codes.
        lowest: The first code.

    Returns:
        Scale and offset, float32: a number is offset + scale * code. The range is the middle 40 to
        100% of that between the smallest and the largest number, by the least squared error.
    """
    low, high = sample.min(axis=0).astype(np.float64), sample.max(axis=0).astype(np.float64)
    middle, half = (low + high) / 2, (high - low) / 2
    best = np.full(len(low), np.inf)
    scale, offset = np.ones(len(low), np.float32), middle.astype(np.float32)
    for clipping in CLIPPINGS:
        reach = half * clipping
        # A constant dimension is its own offset, with any step.
        step = np.where(reach > 0, 2 * reach / (levels - 1), 1.0).astype(np.float32)
        # A range of denormal width would divide by zero.
        step = np.maximum(step, np.finfo(np.float32).tiny)
        start = (middle - reach - step.astype(np.float64) * lowest).astype(np.float32)
        codes = quantize(sample, step, start, lowest=lowest, highest=lowest + levels - 1)
        error = np.mean(np.square(start + step * codes - sample, dtype=np.float64), axis=0)
        is_better = error < best
        best = np.where(is_better, error, best)
        scale, offset = np.where(is_better, step, scale), np.where(is_better, start, offset)
    return scale, offset


def quantize(
    rows: Float[np.ndarray, "count dim"],
    scale: ArrayLike,
    offset: ArrayLike,
    *,
    lowest: int,
    highest: int,
) -> Float[np.ndarray, "count dim"]:
    """Finds the nearest code of each number, clipped to the range.

    Args:
        rows: Numbers.
        scale: Step between two codes, by dimension.
        offset: What code 0 stands for, by dimension.
        lowest: The first code.
        highest: The last code.

    Returns:
        Whole numbers, in float32.
    """
    codes = (rows - np.asarray(offset)) / np.asarray(scale)
    return np.clip(np.rint(codes), lowest, highest).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("k", "times"))
def _search(index, queries, where, *, k, times):
    """What the `search` of a scalar index returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    mask = allowed(where, index.ids)
    is_euclidean = index.metric == "euclidean"
    wanted = k if index.vectors is None else k * times
    kept = min(index.size, wanted + SPARE_CANDIDATES * is_euclidean)

    def score_block(first, size):
        # Around the offset the expanded square keeps its digits.
        block = index._block(first, size)
        if is_euclidean:
            block = block - index.offset[None, :]
        shifted = queries - index.offset[None, :] if is_euclidean else queries
        scores = jnp.matmul(shifted, block.T, precision=lax.Precision.HIGHEST)
        if is_euclidean:
            scores = 2.0 * scores - jnp.sum(block * block, axis=1)[None, :]
        if mask is not None:
            scores = jnp.where(
                lax.dynamic_slice_in_dim(mask, first, size)[None, :], scores, -jnp.inf
            )
        return scores

    nearness, positions = running_top_k(score_block, queries.shape[0], index.size, kept)
    found = min(k, index.size)
    if index.vectors is not None:
        nearness, positions = rescore(queries, index.vectors, positions, found, metric=index.metric)
    elif is_euclidean:
        nearness, positions = _measure_codes(index, queries, positions, found)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def _measure_codes(index, queries, positions, k):
    """Orders candidates by their distance to the decoded vectors, computed as a difference."""
    positions = jnp.sort(positions, axis=1)

    def measure(query_and_positions):
        query, places = query_and_positions
        rows = index._decode(index.codes[jnp.maximum(places, 0)]) - query[None, :]
        distances = jnp.sqrt(jnp.sum(rows * rows, axis=1))
        return jnp.where(places < 0, -jnp.inf, -distances)

    scores = lax.map(measure, (queries, positions), batch_size=16)
    scores, places = lax.top_k(scores, k)
    positions = jnp.take_along_axis(positions, places, axis=1)
    return scores, jnp.where(scores == -jnp.inf, -1, positions)
