"""Exact top-k search on the host's side: vectors stay in a file that may exceed the memory."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

from jaxembed.search.checks import Metric, check_metric, check_search
from jaxembed.search.exact import exact_top_k
from jaxembed.search.results import Results, report

ROWS_AT_ONCE = 65_536


def stream_top_k(
    queries: Num[Array | np.ndarray, "queries dim"],
    vectors: Num[np.ndarray, "count dim"],
    k: int,
    *,
    metric: Metric = "dot",
    where: tuple[int, int] | np.ndarray | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Results:
    """Finds the k best vectors for each query, reading the vectors a part at a time.

    Not traceable: a loop on the host copies one part after another to the device, so that memory
    holds no more than two of them and their scores. `np.load(path, mmap_mode="r")` opens a file.

    Args:
        queries: Query vectors. One with a NaN or infinity finds nothing.
        vectors: Vectors to search, on the host or in a memory-mapped file; of any length for
            "cosine".
        k: Number of results for each query; it may exceed `count`.
        metric: As in `Index`.
        where: Which rows may be found: a mask, or a pair (first, end) of rows.
        rows_at_once: Rows read at once.

    Returns:
        Scores and rows, best first, as `Index.search` returns scores and ids.

    Raises:
        ValueError: If a row is not finite, k or `rows_at_once` is below 1, or shapes disagree.
    """
    check_metric(metric)
    check_search(queries, k, vectors.shape[1])
    if rows_at_once < 1 or vectors.shape[0] < 1:
        raise ValueError(
            f"{vectors.shape[0]} vectors, {rows_at_once} at once: both must be at least 1."
        )
    if isinstance(where, np.ndarray) and where.shape != (vectors.shape[0],):
        raise ValueError(
            f"where has shape {where.shape}: wanted a mask of {vectors.shape[0]} or a pair of rows."
        )
    queries = jnp.asarray(queries).astype(jnp.float32)
    kept = min(k, vectors.shape[0])
    nearness = jnp.full((queries.shape[0], kept), -jnp.inf, jnp.float32)
    positions = jnp.full((queries.shape[0], kept), -1, jnp.int32)
    for start, rows, mask in _parts(vectors, where, min(rows_at_once, vectors.shape[0])):
        nearness, positions = _merge(
            nearness, positions, queries, rows, mask, jnp.int32(start), metric=metric
        )
    is_finite = jnp.isfinite(queries).all(axis=1)
    return report(nearness, positions, None, k, metric=metric, is_finite=is_finite)


def _parts(vectors, where, size) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The first row, rows and mask of each part; the last is filled up, so that all are alike."""
    for start in range(0, vectors.shape[0], size):
        rows = np.asarray(vectors[start : start + size], np.float32)
        is_finite = np.isfinite(rows).all(axis=1)
        if not is_finite.all():
            row = start + int(np.argmin(is_finite))
            raise ValueError(f"Row {row} of the vectors has a NaN or an infinity: mend it first.")
        mask = np.ones(len(rows), bool)
        if isinstance(where, tuple):
            numbers = np.arange(start, start + len(rows))
            mask = (numbers >= where[0]) & (numbers < where[1])
        elif where is not None:
            mask = np.asarray(where[start : start + size])
        padding = size - len(rows)
        yield start, np.pad(rows, ((0, padding), (0, 0))), np.pad(mask, (0, padding))


@functools.partial(jax.jit, static_argnames="metric", donate_argnums=(0, 1))
def _merge(nearness, positions, queries, rows, mask, start, *, metric):
    """Adds a part to the best so far; rows of earlier parts go first among equals."""
    k = nearness.shape[1]
    scores, found = exact_top_k(queries, rows, min(k, rows.shape[0]), metric=metric, where=mask)
    merged = jnp.concatenate([nearness, scores], axis=1)
    numbers = jnp.concatenate([positions, found + start], axis=1)
    nearness, places = lax.top_k(merged, k)
    return nearness, jnp.take_along_axis(numbers, places, axis=1)
