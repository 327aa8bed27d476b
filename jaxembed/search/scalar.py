"""Vectors in 8 or 4 bits a number, with a scale a vector or a calibrated range a dimension."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int8, Num, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric
from jaxembed.search.coded import CodedIndex, mean_row
from jaxembed.search.exact import SPARE_CANDIDATES
from jaxembed.search.index import register_index, static
from jaxembed.search.results import prepare_queries

Scaling = Literal["row", "dimension"]
CALIBRATION_ROWS = 10_000
# Shares of the range, from the middle outwards, among which the best is taken.
CLIPPINGS = np.asarray([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4])


class ScalarIndex(CodedIndex):
    """What indices of scalar codes share: a number is offset + scale * step * code.

    Queries keep their float32. Without the vectors the scores are those of the decoded codes, off
    by about `score_error`.
    """

    ROWS = ("codes", "steps")
    KEEPS_VECTORS = False
    LOWEST: ClassVar[int]  # of the codes; the highest is -LOWEST - 1
    codes: Any
    steps: Float[Array, "size"] | None
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        keep_vectors: bool = False,
        scaling: Scaling = "row",
    ) -> "ScalarIndex":
        """Makes an index, as `Index.build` says; `key` is not used.

        Args:
            vectors: As in `Index.build`.
            metric: As in `Index.build`.
            key: Not used.
            ids: As in `Index.build`.
            keep_vectors: Keep the vectors beside the codes, to rescore with them.
            scaling: "row" gives each vector a step of its own, so that short vectors keep their
                digits beside long ones, for 4 bytes a vector. "dimension" gives all vectors the
                ranges that fit up to 10,000 of them best, as faiss's files do.

        Returns:
            The index.

        Raises:
            ValueError: As `Index.build`, or on an unknown scaling.
        """
        if scaling not in ("row", "dimension"):
            raise ValueError(f"Unknown scaling {scaling!r}: choose row or dimension.")
        return cls._build(vectors, metric, key, ids, keep_vectors, by_row=scaling == "row")

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.scale.shape[0]

    @property
    def spare(self) -> int:
        """How many candidates more than k are measured: expanded squares lose digits."""
        return SPARE_CANDIDATES if self.metric == "euclidean" else 0

    def decode(self) -> Float[Array, "size dim"]:
        """Gives the vectors that the codes stand for."""
        return self._decode(self.codes, self.steps)

    def score_error(
        self, queries: Num[Array | np.ndarray, "queries dim"]
    ) -> Float[Array, "queries"]:
        """Estimates how far scores by codes are from those of the vectors themselves.

        Args:
            queries: Query vectors.

        Returns:
            For "dot" and "cosine" the standard deviation of the score, over the vectors: the root
            of the sum of squared products of the query with each dimension's error. For "euclidean"
            the root-mean-square length of the error of a vector, which by the triangle inequality
            bounds that of its distances.
        """
        queries, _ = prepare_queries(queries, self.metric)
        if self.metric == "euclidean":
            return jnp.full(queries.shape[0], jnp.sqrt(jnp.sum(self.error**2)))
        return jnp.sqrt(jnp.sum((queries * self.error[None, :]) ** 2, axis=1))

    @classmethod
    def _fit(cls, rows, key, *, by_row):
        every = -(-len(rows) // CALIBRATION_ROWS)
        if by_row:
            offset = mean_row(rows)
            scale = np.sqrt(np.square(rows - offset, dtype=np.float64).mean(axis=0))
            scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
            steps = _row_steps((rows - offset) / scale, cls.LOWEST)
        else:
            levels, steps = -2 * cls.LOWEST, None
            scale, offset = calibrate(rows[::every], levels=levels, lowest=cls.LOWEST)
        codes = cls._quantize(rows, scale, offset, steps)
        few = cls._unpack(jnp.asarray(codes[::every]), rows.shape[1])
        decoded = _decoded(few, None if steps is None else steps[::every], scale, offset)
        squares = np.square(rows[::every] - np.asarray(decoded), dtype=np.float64)
        error = np.sqrt(squares.mean(axis=0)).astype(np.float32)
        fields = {"codes": codes, "steps": steps, "scale": scale, "offset": offset, "error": error}
        return jax.tree.map(jnp.asarray, fields)

    def _encode(self, rows):
        scale, offset = np.asarray(self.scale), np.asarray(self.offset)
        steps = None
        if self.steps is not None:
            steps = _row_steps((rows - offset) / scale, self.LOWEST)
        return {"codes": self._quantize(rows, scale, offset, steps), "steps": steps}

    @classmethod
    def _quantize(cls, rows, scale, offset, steps):
        """The packed codes of rows."""
        if steps is not None:
            scale = scale * steps[:, None]
        scale = np.where(scale == 0, 1.0, scale)
        lowest, highest = cls.LOWEST, -cls.LOWEST - 1
        return cls._pack(quantize(rows, scale, offset, lowest=lowest, highest=highest))

    def _decode(self, codes, steps):
        return _decoded(self._unpack(codes, self.dim), steps, self.scale, self.offset)

    def _scorer(self, queries):
        is_euclidean = self.metric == "euclidean"
        shifted = queries - self.offset[None, :] if is_euclidean else queries

        def score(first, size):
            steps = self.steps
            if steps is not None:
                steps = lax.dynamic_slice_in_dim(steps, first, size)
            block = self._decode(lax.dynamic_slice_in_dim(self.codes, first, size), steps)
            if not is_euclidean:
                return jnp.matmul(shifted, block.T, precision=lax.Precision.HIGHEST)
            # Around the offset the expanded square keeps its digits.
            block = block - self.offset[None, :]
            products = jnp.matmul(shifted, block.T, precision=lax.Precision.HIGHEST)
            return 2.0 * products - jnp.sum(block * block, axis=1)[None, :]

        return score

    def _measure(self, queries, scores, positions, k):
        """Distances to the decoded vectors are computed as differences."""
        if self.metric != "euclidean":
            return scores, positions
        positions = jnp.sort(positions, axis=1)

        def measure(query_and_positions):
            query, places = query_and_positions
            rows = jnp.maximum(places, 0)
            steps = None if self.steps is None else self.steps[rows]
            differences = self._decode(self.codes[rows], steps) - query[None, :]
            distances = jnp.sqrt(jnp.sum(differences * differences, axis=1))
            return jnp.where(places < 0, -jnp.inf, -distances)

        scores = lax.map(measure, (queries, positions), batch_size=16)
        scores, places = lax.top_k(scores, k)
        positions = jnp.take_along_axis(positions, places, axis=1)
        return scores, jnp.where(scores == -jnp.inf, -1, positions)


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class Int8Index(ScalarIndex):
    """One byte a number, a quarter of float32.

    Attributes:
        codes: -128 to 127; a number is offset + scale * step * code.
        steps: Factor of the scale by vector, of either sign; None where there is none.
        scale: By dimension, above 0.
        offset: What code 0 stands for, by dimension.
        error: Root of the mean squared error, by dimension, measured on the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    LOWEST = -128
    codes: Int8[Array, "size dim"]
    steps: Float[Array, "size"] | None
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @staticmethod
    def _pack(codes):
        return codes.astype(np.int8)

    @staticmethod
    def _unpack(codes, dim):
        return codes.astype(jnp.float32)


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class Int4Index(ScalarIndex):
    """Half a byte a number, an eighth of float32.

    Attributes:
        codes: Two codes a byte, each from -8 to 7 and stored plus 8: that of the first half of the
            dimensions in the low bits, that of the second half in the high ones.
        steps: As in `Int8Index`.
        scale: As in `Int8Index`.
        offset: As in `Int8Index`.
        error: As in `Int8Index`.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    LOWEST = -8
    codes: UInt8[Array, "size half"]
    steps: Float[Array, "size"] | None
    scale: Float[Array, "dim"]
    offset: Float[Array, "dim"]
    error: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @staticmethod
    def _pack(codes):
        codes = (codes + 8).astype(np.uint8)
        half = -(-codes.shape[1] // 2)
        low = codes[:, :half].copy()
        low[:, : codes.shape[1] - half] |= codes[:, half:] << 4
        return low

    @staticmethod
    def _unpack(codes, dim):
        halves = jnp.concatenate([codes & jnp.uint8(15), codes >> jnp.uint8(4)], axis=1)
        return halves[:, :dim].astype(jnp.float32) - 8.0


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


def _row_steps(scaled: np.ndarray, lowest: int) -> Float[np.ndarray, "size"]:
    """The step of each row with the least squared error; its farthest number has code `lowest`.

    Few levels gain by clipping, which is tried from 1 to 0.6 of the range.
    """
    at = np.abs(scaled).argmax(axis=1)[:, None]
    full = (np.take_along_axis(scaled, at, axis=1) / lowest).astype(np.float32)
    if lowest == -128:
        return full[:, 0]
    best, steps = np.full(full.shape, np.inf), full
    for clipping in CLIPPINGS[:9]:
        step = (full * clipping).astype(np.float32)
        codes = np.clip(np.rint(scaled / np.where(step == 0, 1.0, step)), lowest, -lowest - 1)
        error = np.square(step * codes - scaled).sum(axis=1, keepdims=True)
        steps = np.where(error < best, step, steps)
        best = np.minimum(best, error)
    return steps[:, 0]


def _decoded(codes, steps, scale, offset):
    """Offset + scale * step * code."""
    if steps is not None:
        codes = codes * steps[:, None]
    return offset[None, :] + scale[None, :] * codes
