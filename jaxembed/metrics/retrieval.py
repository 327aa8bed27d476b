"""Retrieval metrics at k: recall, precision, reciprocal rank, nDCG and average precision.

All take the ids found for each query, best first, and those that are relevant, in any order; -1 is
no id in either. Both hold an id at most once a row. A query without relevant ids scores 0.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def recall_at_k(
    retrieved: Int[Array | np.ndarray, "queries found"],
    relevant: Int[Array | np.ndarray, "queries relevant"],
    k: int | None = None,
) -> Float[Array, "queries"]:
    """Computes the share of the relevant ids that are among the first k found.

    Args:
        retrieved: Ids found, best first; -1 for none.
        relevant: Ids that should be found; -1 fills up.
        k: How many of those found count; None counts all.

    Returns:
        From 0 to 1 for each query; 0 where nothing is relevant.

    Raises:
        ValueError: If k is below 1 or the numbers of queries differ.
    """
    hits = _hits(retrieved, relevant, k)
    return _share(hits.sum(axis=1), (relevant >= 0).sum(axis=1))


def precision_at_k(
    retrieved: Int[Array | np.ndarray, "queries found"],
    relevant: Int[Array | np.ndarray, "queries relevant"],
    k: int | None = None,
) -> Float[Array, "queries"]:
    """Computes the share of the first k places that hold a relevant id.

    Args:
        retrieved: As in `recall_at_k`; missing places count as wrong.
        relevant: As in `recall_at_k`.
        k: The divisor; None stands for the width of `retrieved`.

    Returns:
        From 0 to 1 for each query.

    Raises:
        ValueError: As `recall_at_k`.
    """
    hits = _hits(retrieved, relevant, k)
    return hits.sum(axis=1).astype(jnp.float32) / (retrieved.shape[1] if k is None else k)


def mrr(
    retrieved: Int[Array | np.ndarray, "queries found"],
    relevant: Int[Array | np.ndarray, "queries relevant"],
    k: int | None = None,
) -> Float[Array, "queries"]:
    """Computes the reciprocal of the rank of the first relevant id; its mean is the MRR.

    Args:
        retrieved: As in `recall_at_k`.
        relevant: As in `recall_at_k`.
        k: How many of those found count; None counts all.

    Returns:
        1 / rank for each query, ranks from 1; 0 where none is found.

    Raises:
        ValueError: As `recall_at_k`.
    """
    hits = _hits(retrieved, relevant, k).astype(jnp.float32)
    # The first hit is the largest of 1/rank over the hits.
    return jnp.max(hits / _ranks(hits), axis=1, initial=0.0)


def average_precision_at_k(
    retrieved: Int[Array | np.ndarray, "queries found"],
    relevant: Int[Array | np.ndarray, "queries relevant"],
    k: int | None = None,
) -> Float[Array, "queries"]:
    """Computes the mean of the precisions at the ranks of relevant ids; its mean is the MAP.

    Args:
        retrieved: As in `recall_at_k`.
        relevant: As in `recall_at_k`.
        k: How many of those found count; None counts all.

    Returns:
        From 0 to 1 for each query: the sum over the hits divided by the number of relevant ids or
        by k, whichever is smaller, so that a perfect ranking has 1.

    Raises:
        ValueError: As `recall_at_k`.
    """
    hits = _hits(retrieved, relevant, k).astype(jnp.float32)
    precisions = jnp.cumsum(hits, axis=1) / _ranks(hits)
    wanted = (relevant >= 0).sum(axis=1)
    limit = retrieved.shape[1] if k is None else k
    return _share((hits * precisions).sum(axis=1), jnp.minimum(wanted, limit))


def ndcg_at_k(
    retrieved: Int[Array | np.ndarray, "queries found"],
    relevant: Int[Array | np.ndarray, "queries relevant"],
    k: int | None = None,
    *,
    gains: Float[Array | np.ndarray, "queries relevant"] | None = None,
) -> Float[Array, "queries"]:
    """Computes the normalised discounted cumulative gain.

    Args:
        retrieved: As in `recall_at_k`.
        relevant: As in `recall_at_k`.
        k: How many of those found count; None counts all.
        gains: What each relevant id is worth, 0 or more; by default 1. For the exponential form
            give 2^grade - 1.

    Returns:
        From 0 to 1 for each query: the sum of gain / log2(1 + rank), divided by that of the best
        possible ranking of k; 0 where no gain is to be had.

    Raises:
        ValueError: As `recall_at_k`, or if gains have another shape than `relevant`.

    Reference: Jarvelin and Kekalainen, 2002, https://doi.org/10.1145/582415.582418, with the
    discount log2(1 + rank) that is usual now.
    """
    if gains is None:
        gains = jnp.ones(relevant.shape, jnp.float32)
    if gains.shape != relevant.shape:
        raise ValueError(f"gains have shape {gains.shape}, but the relevant ids {relevant.shape}.")
    relevant = jnp.asarray(relevant)
    gains = jnp.where(relevant >= 0, jnp.asarray(gains).astype(jnp.float32), 0.0)
    same = _matches(retrieved, relevant, k)  # [queries, found, relevant]
    gained = jnp.sum(jnp.where(same, gains[:, None, :], 0.0), axis=2)
    limit = retrieved.shape[1] if k is None else k
    best = -jnp.sort(-gains, axis=1)[:, :limit]
    return _share(_discounted(gained), _discounted(best))


def _matches(retrieved, relevant, k) -> Bool[Array, "queries found relevant"]:
    """Which of the first k found is which relevant id; checks the arguments."""
    if retrieved.shape[0] != relevant.shape[0]:
        raise ValueError(
            f"{retrieved.shape[0]} rows of ids found, but {relevant.shape[0]} of relevant ids: "
            "both must have one a query."
        )
    if k is not None and k < 1:
        raise ValueError(f"k is {k}: it must be at least 1, or None to count all.")
    found, relevant = jnp.asarray(retrieved)[:, :k], jnp.asarray(relevant)
    return (found[:, :, None] == relevant[:, None, :]) & (found >= 0)[:, :, None]


def _hits(retrieved, relevant, k) -> Bool[Array, "queries found"]:
    """Which of the first k places hold a relevant id."""
    return _matches(retrieved, relevant, k).any(axis=2)


def _ranks(hits):
    """Ranks from 1, as a row."""
    return jnp.arange(1, hits.shape[1] + 1, dtype=jnp.float32)[None, :]


def _discounted(gains):
    """The discounted sum of gains in the order of ranks."""
    return jnp.sum(gains / jnp.log2(1.0 + _ranks(gains)), axis=1)


def _share(part, whole):
    """The quotient, 0 where the whole is 0."""
    part, whole = part.astype(jnp.float32), whole.astype(jnp.float32)
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)
