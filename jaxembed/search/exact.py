"""Exact top-k search: every vector is scored, a block at a time, on the device."""

import dataclasses
import functools
from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.index import Index, register_index, static
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report
from jaxembed.search.similarity import unit_rows

# Expanded distances lose digits, so this many more than k are kept and measured again directly.
SPARE_CANDIDATES = 16
# Scores held at once: 64 MB of them, in blocks that fit the cache where queries are few.
SCORES_AT_ONCE, LEAST_BLOCK, LARGEST_BLOCK = 1 << 24, 2048, 16_384
# Of each so many scores in a row only the largest is looked at first.
GROUP = 32
NUMBERS_AT_ONCE = 1 << 22


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class ExactIndex(Index):
    """All vectors in float32, each of them scored by every search.

    Attributes:
        vectors: The vectors, of length 1 for the metric "cosine".
        ids: As in `Index`.
        metric: As in `Index`.
    """

    vectors: Float[Array, "size dim"]
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
    ) -> "ExactIndex":
        """Makes an index, as `Index.build` says; `key` is not used."""
        rows = check_vectors(vectors, metric=metric)
        return cls(jnp.asarray(rows), jnp.asarray(check_ids(ids, len(rows))), metric)

    def search(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> Results:
        """Finds the k best vectors for each query, as `Index.search` says."""
        check_search(queries, k, self.dim)
        return _search(self, queries, where, k=k)

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.vectors.shape[1]

    def _append(self, rows, ids):
        vectors, ids = concatenate([self.vectors, rows]), concatenate([self.ids, ids])
        return ExactIndex(jnp.asarray(vectors), jnp.asarray(ids), self.metric)

    def _keep(self, positions):
        return ExactIndex(self.vectors[positions], self.ids[positions], self.metric)

    def _replace(self, positions, rows):
        return dataclasses.replace(self, vectors=self.vectors.at[positions].set(rows))


@functools.partial(jax.jit, static_argnames="k")
def _search(index, queries, where, *, k):
    """What `ExactIndex.search` returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    nearness, positions = exact_top_k(
        queries,
        index.vectors,
        min(k, index.size),
        # Rows and queries are of length 1 already.
        metric="dot" if index.metric == "cosine" else index.metric,
        where=allowed(where, index.ids),
    )
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def exact_top_k(
    queries: Float[Array, "queries dim"],
    vectors: Float[Array, "count dim"],
    k: int,
    *,
    metric: Metric = "dot",
    exclude: Int[Array, "queries excluded"] | None = None,
    where: Bool[Array, "count"] | None = None,
    block_size: int | None = None,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Finds the k vectors that score highest for each query, by scoring all of them.

    Pure and jittable with `k`, `metric` and `block_size` static. Computes in float32 at the highest
    matmul precision, because TF32 or bfloat16 products reorder neighbours. Needs memory for
    `queries * block_size` scores, never for `queries * count`.

    "euclidean" selects by the expanded square, around the mean of the vectors, and measures the
    best `k + 16` again by direct difference; far-apart clusters with more near-ties than that
    within float32 rounding can lose one.

    Args:
        queries: Query vectors.
        vectors: Vectors to search.
        k: Number of results for each query, from 1 to `count`.
        metric: "dot" is the inner product; "cosine" is that of the unit vectors, 0 where one is
            zero; "euclidean" is minus the distance.
        exclude: Ids never returned for the query of the same row; -1 stands for none.
        where: False for vectors that no query may find.
        block_size: Vectors scored at once; None chooses by the number of queries.

    Returns:
        Scores from the highest down, and the ids that have them; equal scores come lowest id first.
        Vectors whose score is NaN are never returned. Where fewer than k vectors are left, the rest
        are score -inf and id -1.

    Raises:
        ValueError: If k is below 1 or above `count`, if shapes disagree, or on an unknown metric.
    """
    _check(queries, vectors, k, metric, exclude, block_size)
    count = vectors.shape[0]
    queries = queries.astype(jnp.float32)
    kept = min(count, k + SPARE_CANDIDATES) if metric == "euclidean" else k
    centre = _finite_mean(vectors) if metric == "euclidean" else None
    rows = jnp.arange(queries.shape[0])[:, None]

    def score_block(first, size):
        block = lax.dynamic_slice_in_dim(vectors, first, size).astype(jnp.float32)
        scores = _score(queries, block, metric, centre)  # [queries, size]
        if where is not None:
            is_allowed = lax.dynamic_slice_in_dim(where, first, size)
            scores = jnp.where(is_allowed[None, :], scores, -jnp.inf)
        if exclude is not None:
            columns = exclude.astype(jnp.int32) - first
            columns = jnp.where((columns >= 0) & (columns < size), columns, size)
            scores = scores.at[rows, columns].set(-jnp.inf, mode="drop")
        return scores

    scores, ids = running_top_k(score_block, queries.shape[0], count, kept, block_size=block_size)
    if metric == "euclidean":
        scores, ids = rescore(queries, vectors, ids, k, metric=metric)
    return scores, ids


def running_top_k(
    score_block: Callable[[Int[Array, ""], int], Float[Array, "queries size"]],
    query_count: int,
    count: int,
    k: int,
    *,
    block_size: int | None = None,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Keeps the k best of scores that come a block at a time.

    Args:
        score_block: Gives the float32 scores of `size` vectors from the one at `first` on.
        query_count: Number of queries.
        count: Number of vectors.
        k: Number of results for each query, from 1 to `count`.
        block_size: Vectors scored at once; None chooses by the number of queries.

    Returns:
        Scores from the highest down, and the positions that have them, lowest first of equals;
        -inf and -1 where no score is a number above -inf.
    """
    if block_size is None:
        fitting = SCORES_AT_ONCE // query_count // GROUP * GROUP
        block_size = min(LARGEST_BLOCK, max(LEAST_BLOCK, fitting))
    size = min(block_size, count)

    def step(best, start):
        # The last block starts early, so that it is whole; what it repeats is masked.
        first = jnp.minimum(start, count - size)
        scores = score_block(first, size)
        is_new = (first + jnp.arange(size, dtype=jnp.int32) >= start)[None, :]
        scores = jnp.where(is_new & ~jnp.isnan(scores), scores, -jnp.inf)
        block_scores, columns = grouped_top_k(scores, min(k, size))
        # Earlier blocks come first, and top_k prefers the first of equals: the lowest position.
        merged_scores = jnp.concatenate([best[0], block_scores], axis=1)
        merged_positions = jnp.concatenate([best[1], first + columns], axis=1)
        scores, places = lax.top_k(merged_scores, k)
        return (scores, jnp.take_along_axis(merged_positions, places, axis=1)), None

    shape = (query_count, k)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32)
    (scores, positions), _ = lax.scan(step, nothing, jnp.arange(0, count, size, dtype=jnp.int32))
    return scores, jnp.where(scores == -jnp.inf, -1, positions)


def grouped_top_k(
    scores: Float[Array, "queries count"], k: int
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Equals `lax.top_k`, but looks first at the largest of each group of 32 neighbours.

    The k best lie in the k groups whose largest are best: an element outside of them has one ahead
    of it in each. On a CPU `top_k` costs as much as the products themselves, the maxima little.

    Args:
        scores: Float32 without NaN.
        k: Number of results, from 1 to `count`.

    Returns:
        Scores from the highest down, and their columns, lowest first of equals.
    """
    queries, count = scores.shape
    if 2 * k * GROUP >= count:
        return tuple(lax.top_k(scores, k))
    padding = -count % GROUP
    if padding:
        scores = jnp.pad(scores, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    grouped = scores.reshape(queries, -1, GROUP)
    _, groups = lax.top_k(jnp.max(grouped, axis=2), k)
    groups = jnp.sort(groups, axis=1)  # so that equal scores come lowest column first
    candidates = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)
    best, places = lax.top_k(candidates.reshape(queries, k * GROUP), k)
    chosen = jnp.take_along_axis(groups, places // GROUP, axis=1)
    # Where all is -inf, a column of the padding could come; it is never a result.
    return best, jnp.minimum(chosen * GROUP + places % GROUP, count - 1)


def rescore(
    queries: Float[Array, "queries dim"],
    vectors: Float[Array, "count dim"],
    positions: Int[Array, "queries candidates"],
    k: int,
    *,
    metric: Metric,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Orders candidates by their scores with the vectors themselves.

    Args:
        queries: Query vectors; for "cosine" of length 1, as the vectors.
        vectors: Vectors that the positions point into.
        positions: Distinct candidates for each query; -1 stands for none.
        k: Number of results for each query, from 1 to `candidates`.
        metric: "euclidean" scores minus the distance, by direct difference, others the product.

    Returns:
        Scores from the highest down and their positions, lowest first of equals; -inf and -1 where
        there are fewer candidates.
    """
    positions = jnp.sort(positions, axis=1)  # so that equal scores come lowest position first
    candidates, dim = positions.shape[1], vectors.shape[1]

    def measure(query_and_positions):
        query, positions = query_and_positions
        rows = vectors[jnp.maximum(positions, 0)].astype(jnp.float32)  # [candidates, dim]
        if metric == "euclidean":
            differences = rows - query[None, :]
            scores = -jnp.sqrt(jnp.sum(differences * differences, axis=1))
        else:
            scores = jnp.sum(rows * query[None, :], axis=1)
        return jnp.where((positions < 0) | jnp.isnan(scores), -jnp.inf, scores)

    batch_size = max(1, min(64, NUMBERS_AT_ONCE // (candidates * dim)))
    scores = lax.map(measure, (queries, positions), batch_size=batch_size)
    scores, places = lax.top_k(scores, k)
    positions = jnp.take_along_axis(positions, places, axis=1)
    return scores, jnp.where(scores == -jnp.inf, -1, positions)


def _score(queries, block, metric, centre):
    """Scores every query against every row of the block; larger is nearer."""
    if metric == "cosine":
        queries, block = unit_rows(queries), unit_rows(block)
    elif metric == "euclidean":
        queries, block = queries - centre[None, :], block - centre[None, :]
    products = jnp.matmul(queries, block.T, precision=lax.Precision.HIGHEST)
    if metric == "euclidean":
        return 2.0 * products - jnp.sum(block * block, axis=1)[None, :]
    return products


def _finite_mean(vectors):
    """The mean row, of finite entries only: one NaN must not spoil every distance."""
    is_finite = jnp.isfinite(vectors)
    total = jnp.sum(jnp.where(is_finite, vectors, 0), axis=0, dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(is_finite, axis=0, dtype=jnp.float32), 1.0)


def _check(queries, vectors, k, metric, exclude, block_size):
    """Raises ValueError on what a caller can get wrong; looks at static shapes only."""
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"Queries have {queries.shape[1]} dimensions but the vectors {vectors.shape[1]}: "
            "both must come from the same model."
        )
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(
            f"k is {k}, but there are {vectors.shape[0]} vectors: ask for 1 to {vectors.shape[0]}."
        )
    if metric not in get_args(Metric):
        raise ValueError(f"Unknown metric {metric!r}: choose one of {', '.join(get_args(Metric))}.")
    if exclude is not None and exclude.shape[0] != queries.shape[0]:
        raise ValueError(
            f"{exclude.shape[0]} rows of excluded ids for {queries.shape[0]} queries: "
            "give one row a query, filled up with -1."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size is {block_size}: it must be at least 1.")
