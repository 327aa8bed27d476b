"""From queries to results: which queries and vectors count, and how what is found is reported."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from jaxembed.search.checks import Metric
from jaxembed.search.similarity import unit_rows

Where = Bool[Array | np.ndarray, "mask"] | tuple[Any, Any] | None
Results = tuple[Float[Array, "queries k"], Int[Array, "queries k"]]


def prepare_queries(
    queries: Num[Array | np.ndarray, "queries dim"], metric: Metric
) -> tuple[Float[Array, "queries dim"], Bool[Array, "queries"]]:
    """Brings queries into the form that the metric scores.

    Args:
        queries: Query vectors.
        metric: "cosine" scales them to length 1.

    Returns:
        The queries in float32, zeros in place of those that are not finite, and a mask that is
        False for these.
    """
    queries = jnp.asarray(queries).astype(jnp.float32)
    is_finite = jnp.isfinite(queries).all(axis=1)
    queries = jnp.where(is_finite[:, None], queries, 0.0)
    return (unit_rows(queries) if metric == "cosine" else queries), is_finite


def allowed(where: Where, ids: Int[Array, "size"]) -> Bool[Array, "size"] | None:
    """Turns the `where` of a search into a mask over the vectors.

    Args:
        where: A mask in the order of `ids`, a pair (first, end) of ids, or None.
        ids: The ids of the index.

    Returns:
        The mask, or None where all vectors may be found.

    Raises:
        ValueError: If a mask has another length.
    """
    if where is None:
        return None
    if isinstance(where, tuple):
        first, end = where
        return (ids >= first) & (ids < end)
    if where.shape != ids.shape:
        raise ValueError(
            f"where has shape {where.shape}: wanted a mask of {ids.shape[0]} in the order of "
            "index.ids, or a pair (first id, id after the last)."
        )
    return jnp.asarray(where)


def report(
    nearness: Float[Array, "queries found"],
    positions: Int[Array, "queries found"],
    ids: Int[Array, "size"] | None,
    k: int,
    *,
    metric: Metric,
    is_finite: Bool[Array, "queries"] | None = None,
) -> Results:
    """Turns what a search found into what it returns.

    Args:
        nearness: Best first, larger is better: for euclidean minus the distance. -inf where nothing
            was found.
        positions: Places in `ids`; any value where the nearness is -inf.
        ids: The ids of the index; None reports the positions themselves.
        k: How many results are wanted, more or fewer than were found.
        metric: What the scores shall mean.
        is_finite: False for queries that find nothing.

    Returns:
        Scores and ids, as `Index.search` says.
    """
    padding = ((0, 0), (0, max(0, k - nearness.shape[1])))
    nearness = jnp.pad(nearness[:, :k], padding, constant_values=-jnp.inf)
    positions = jnp.pad(positions[:, :k], padding)
    is_missing = nearness == -jnp.inf
    if is_finite is not None:
        is_missing |= ~is_finite[:, None]
    worst = jnp.inf if metric == "euclidean" else -jnp.inf
    # Adding 0 makes a distance of -0 a plain 0.
    scores = 0.0 - nearness if metric == "euclidean" else nearness
    found = positions if ids is None else ids[jnp.where(is_missing, 0, positions)]
    return jnp.where(is_missing, worst, scores), jnp.where(is_missing, -1, found)
