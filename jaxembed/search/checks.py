"""What users can get wrong about vectors, ids and queries, found at the edge of every index."""

import operator
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search.similarity import unit_rows

Metric = Literal["dot", "cosine", "euclidean"]
LARGEST_ID = np.iinfo(np.int32).max


def check_metric(metric: str) -> None:
    """Raises ValueError on an unknown metric."""
    if metric not in get_args(Metric):
        raise ValueError(f"Unknown metric {metric!r}: choose one of {', '.join(get_args(Metric))}.")


def check_vectors(
    vectors: ArrayLike, *, metric: Metric, dim: int | None = None
) -> Float[np.ndarray, "size dim"]:
    """Checks the rows of an index and brings them into the form that it stores.

    Args:
        vectors: A row each.
        metric: "cosine" scales the rows to length 1.
        dim: The number of dimensions wanted; None takes any.

    Returns:
        The rows in float32, on the host.

    Raises:
        ValueError: On an unknown metric, a wrong shape, or a row that is not finite.
    """
    check_metric(metric)
    rows = np.asarray(vectors)
    if rows.ndim != 2 or 0 in rows.shape or (dim is not None and rows.shape[1] != dim):
        wanted = "any number" if dim is None else dim
        raise ValueError(
            f"The vectors have shape {rows.shape}: wanted at least one row of {wanted} of numbers."
        )
    if not (np.issubdtype(rows.dtype, np.number) or rows.dtype == jnp.bfloat16):
        raise ValueError(f"The vectors are of dtype {rows.dtype}: wanted real numbers.")
    if np.iscomplexobj(rows):
        raise ValueError(f"The vectors are of dtype {rows.dtype}: wanted real numbers.")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    is_finite = np.isfinite(rows).all(axis=1)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise ValueError(
            f"Row {row} of the vectors has a NaN or an infinity (in float32): {(~is_finite).sum()} "
            f"of {len(rows)} rows have. Remove or mend them first."
        )
    return np.asarray(_unit_rows(rows)) if metric == "cosine" else rows


def check_ids(ids: ArrayLike | None, count: int) -> Int[np.ndarray, "size"]:
    """Checks the caller's ids.

    Args:
        ids: Distinct integers from 0 to 2^31 - 1; None stands for 0 to count - 1.
        count: How many are wanted.

    Returns:
        The ids in int32, on the host.

    Raises:
        ValueError: If they are not that.
    """
    given = np.arange(count) if ids is None else np.asarray(ids)
    if given.shape != (count,) or not (np.issubdtype(given.dtype, np.integer) or count == 0):
        raise ValueError(
            f"The ids have shape {given.shape} and dtype {given.dtype}: wanted one integer for "
            f"each of the {count} vectors; keep strings in a KeyedVectors."
        )
    if count and (given.min() < 0 or given.max() > LARGEST_ID):
        wrong = given[(given < 0) | (given > LARGEST_ID)][0]
        raise ValueError(f"id {wrong} is out of range: wanted 0 to {LARGEST_ID}.")
    values, counts = np.unique(given, return_counts=True)
    if len(values) < count:
        raise ValueError(f"id {values[counts > 1][0]} comes more than once: ids must be distinct.")
    return given.astype(np.int32)


def positions_of(known: ArrayLike, ids: ArrayLike) -> Int[np.ndarray, "count"]:
    """Finds where ids stand in an index.

    Args:
        known: The ids of the index.
        ids: Distinct ids, each of them in the index.

    Returns:
        The place of each.

    Raises:
        KeyError: If an id is not in the index.
        ValueError: If an id comes twice or is no integer.
    """
    known, ids = np.asarray(known), np.atleast_1d(np.asarray(ids))
    ids = check_ids(ids, ids.size)
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    if (is_unknown := known[places] != ids).any():
        named = ", ".join(map(str, ids[is_unknown][:5]))
        raise KeyError(
            f"{is_unknown.sum()} of {len(ids)} ids are not in the index of {len(known)}: {named}."
        )
    return places


def check_search(queries: Num[Array | np.ndarray, "queries dim"], k: int, dim: int) -> None:
    """Checks what every search is given; looks at static shapes only.

    Args:
        queries: Query vectors.
        k: Number of results for each query.
        dim: The index's number of dimensions.

    Raises:
        ValueError: If k is below 1 or the queries have another number of dimensions.
    """
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(
            f"The queries have shape {queries.shape}: wanted rows of {dim} numbers, as the index."
        )
    if operator.index(k) < 1:
        raise ValueError(f"k is {k}: it must be at least 1.")


def concatenate(arrays: Sequence[ArrayLike]) -> np.ndarray:
    """Joins arrays along the first axis on the host, in the dtype of the first."""
    first, *rest = map(np.asarray, arrays)
    return np.concatenate([first, *(part.astype(first.dtype) for part in rest)])


_unit_rows = jax.jit(unit_rows)
