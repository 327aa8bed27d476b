"""Contrastive losses over paired vectors: dense, or tile by tile with `chunk_size`.

Row i of `docs` is the positive of row i of `queries`. All losses are unreduced, and a masked row is
neither a query nor a negative and has loss 0.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxembed.losses.blockwise import (
    FLOOR,
    Kind,
    Pairs,
    is_counted,
    is_positive,
    pair_logits,
    sum_over_pairs,
)

Scalar = float | Float[Array, ""]
Mining = Literal["all", "hard", "semi-hard"]
SumFn = Callable[[Kind, Array, Array, Array, Array, Pairs], Float[Array, "batch"]]


def info_nce(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    temperature: Scalar = 0.07,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "batch"]:
    """Cross-entropy of each query against every document of the batch.

    Args:
        queries: Vectors, usually of length 1.
        docs: Vectors, paired with `queries` by row.
        temperature: Positive divisor of the inner products; smaller is sharper.
        mask: False marks padding rows.
        ids: Identity of each row's document: rows of equal ids are never negatives of one another.
        hard_negatives: Further documents of each query, negatives of that query alone.
        log_q: Logarithm of the probability with which each document gets into a batch, which is
            subtracted from its logits; a batch of popular documents would punish them otherwise.
        chunk_size: Rows and columns of a tile; None computes all logits at once. The result is the
            same; memory grows with the batch instead of its square.

    Returns:
        Loss in nats for each query, 0 for padding.

    Raises:
        ValueError: If shapes do not fit or `chunk_size` is below 1.

    References: van den Oord et al., 2018, https://arxiv.org/abs/1807.03748, eq. 4; `log_q`: Yi et
    al., 2019, https://doi.org/10.1145/3298689.3346996, eq. 3.
    """
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    return softmax_losses(
        make_sum(chunk_size), queries, docs, 1.0 / temperature, mask, ids, hard_negatives, log_q
    )


def clip_loss(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    temperature: Scalar = 0.07,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "batch"]:
    """Mean of `info_nce` of queries against documents and of documents against queries.

    Args:
        queries: As of `info_nce`, for example images.
        docs: As of `info_nce`, for example their captions.
        temperature: As of `info_nce`.
        mask: As of `info_nce`.
        ids: As of `info_nce`.
        hard_negatives: As of `info_nce`; they enter the first direction.
        log_q: As of `info_nce`; it enters the first direction, where documents are candidates.
        chunk_size: As of `info_nce`.

    Returns:
        Loss in nats for each row, 0 for padding.

    Raises:
        ValueError: As `info_nce` does.

    Reference: Radford et al., 2021, https://arxiv.org/abs/2103.00020, figure 3.
    """
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    sum_fn, scale = make_sum(chunk_size), 1.0 / temperature
    forth = softmax_losses(sum_fn, queries, docs, scale, mask, ids, hard_negatives, log_q)
    back = softmax_losses(sum_fn, docs, queries, scale, mask, ids, None, None)
    return 0.5 * (forth + back)


def sigmoid_contrastive(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    scale: Scalar = 10.0,
    bias: Scalar = -10.0,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "batch"]:
    """Binary cross-entropy of every pair of a query and a document, summed over documents.

    Args:
        queries: As of `info_nce`.
        docs: As of `info_nce`.
        scale: Factor of the inner products (not its logarithm).
        bias: Added to all logits; the default starts with few positives expected.
        mask: As of `info_nce`.
        ids: As of `info_nce`.
        hard_negatives: As of `info_nce`.
        log_q: As of `info_nce`.
        chunk_size: As of `info_nce`.

    Returns:
        Loss in nats for each query, summed over its documents, 0 for padding. Its mean over rows
        is the paper's loss.

    Raises:
        ValueError: As `info_nce` does.

    Reference: Zhai et al., 2023, https://arxiv.org/abs/2303.15343, eq. 2.
    """
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    return sigmoid_losses(
        make_sum(chunk_size), queries, docs, scale, bias, mask, ids, hard_negatives, log_q
    )


def n_pair(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    l2: float = 0.0,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "batch"]:
    """Cross-entropy over plain inner products of vectors whose lengths are held down.

    Args:
        queries: Vectors of any length.
        docs: Vectors, paired with `queries` by row.
        l2: Weight of the mean squared length of the two vectors of a row.
        mask: As of `info_nce`.
        ids: As of `info_nce`.
        chunk_size: As of `info_nce`.

    Returns:
        Loss in nats for each query, 0 for padding.

    Raises:
        ValueError: As `info_nce` does.

    Reference: Sohn, 2016, Improved deep metric learning with multi-class n-pair loss, eq. 5 and 8.
    """
    losses = info_nce(queries, docs, temperature=1.0, mask=mask, ids=ids, chunk_size=chunk_size)
    squares = jnp.sum(jnp.square(queries) + jnp.square(docs), axis=1).astype(jnp.float32)
    return losses + _masked(0.5 * l2 * squares, mask)


def triplet(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    margin: float = 0.2,
    mining: Mining = "hard",
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Hinge on how much nearer the positive is than negatives found in the batch.

    Distances are squared Euclidean ones.

    Args:
        queries: Vectors, usually of length 1.
        docs: Vectors, paired with `queries` by row.
        margin: By how much the positive shall be nearer.
        mining: Which negatives: "hard" the nearest; "semi-hard" the nearest of those farther than
            the positive, or where there is none the farthest; "all" the mean over all that violate
            the margin.
        mask: As of `info_nce`.
        ids: As of `info_nce`.

    Returns:
        Loss for each query, 0 for padding and where there is no negative.

    Raises:
        ValueError: If shapes do not fit or `mining` is unknown.

    References: Schroff et al., 2015, https://arxiv.org/abs/1503.03832, section 3.2; Hermans et al.,
    2017, https://arxiv.org/abs/1703.07737.
    """
    check_pairs(queries, docs, mask, ids, None, None, None)
    if mining not in get_args(Mining):
        raise ValueError(f"mining {mining!r}; wanted one of {get_args(Mining)}.")
    pairs = _make_pairs(len(queries), mask, ids)
    zeros, one = jnp.zeros(len(queries)), jnp.ones(())
    products = pair_logits(queries, docs, one, zeros)
    lengths = [jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1) for x in (queries, docs)]
    distances = lengths[0][:, None] + lengths[1][None] - 2.0 * products
    positive = jnp.sum(jnp.square(queries - docs).astype(jnp.float32), axis=1)[:, None]
    is_negative = is_counted(pairs) & ~is_positive(pairs)
    hinges = jnp.maximum(positive - distances + margin, 0.0)
    if mining == "all":
        is_used = is_negative & (hinges > 0)
        count = jnp.sum(is_used, axis=1)
        return _masked(
            jnp.sum(jnp.where(is_used, hinges, 0.0), axis=1) / jnp.maximum(count, 1), mask
        )
    far = jnp.where(is_negative, distances, -FLOOR)
    if mining == "semi-hard":
        is_farther = is_negative & (distances > positive)
        farthest = jnp.max(jnp.where(is_negative, distances, FLOOR), axis=1, keepdims=True)
        nearest = jnp.min(jnp.where(is_farther, distances, -FLOOR), axis=1, keepdims=True)
        chosen = jnp.where(jnp.any(is_farther, axis=1, keepdims=True), nearest, farthest)
    else:
        chosen = jnp.min(far, axis=1, keepdims=True)
    losses = jnp.maximum(positive - chosen + margin, 0.0)[:, 0]
    return _masked(jnp.where(jnp.any(is_negative, axis=1), losses, 0.0), mask)


def candidate_softmax(
    queries: Float[Array, "batch dim"],
    candidates: Float[Array, "candidates dim"],
    targets: Int[Array, "batch"],
    *,
    temperature: Scalar = 1.0,
    mask: Bool[Array, "batch"] | None = None,
    ids: tuple[Int[Array, "_"], Int[Array, "_"]] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "candidates"] | None = None,
    chunk_size: int | None = None,
) -> Float[Array, "batch"]:
    """Cross-entropy of each query's target against the whole set of candidates, exactly.

    Args:
        queries: Vectors.
        candidates: Vectors of all items.
        targets: Row of each query's item in `candidates`.
        temperature: Positive divisor of the inner products.
        mask: False marks padding rows of `queries`.
        ids: Identities of the queries' items and of the candidates: what is equal to a query's
            item is no negative of it.
        hard_negatives: As of `info_nce`.
        log_q: As of `info_nce`, for each candidate.
        chunk_size: As of `info_nce`.

    Returns:
        Loss in nats for each query, 0 for padding.

    Raises:
        ValueError: If shapes do not fit or `chunk_size` is below 1.
    """
    if targets.shape != queries.shape[:1] or queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"queries are {queries.shape}, targets {targets.shape} and candidates "
            f"{candidates.shape}: wanted [batch, dim], [batch] and [candidates, dim]."
        )
    if ids is not None and [len(one) for one in ids] != [len(queries), len(candidates)]:
        raise ValueError(
            f"ids are of {len(ids[0])} queries and {len(ids[1])} candidates: wanted "
            f"{len(queries)} and {len(candidates)}."
        )
    _check_negatives(queries, hard_negatives)
    _check_chunk(chunk_size)
    scale = jnp.asarray(1.0 / temperature, jnp.float32)
    bias = jnp.zeros(len(candidates)) if log_q is None else -log_q
    pairs = Pairs(
        targets.astype(jnp.int32),
        jnp.arange(len(candidates), dtype=jnp.int32),
        jnp.ones(len(candidates), bool),
        *(ids or (None, None)),
    )
    total = make_sum(chunk_size)("softmax", queries, candidates, scale, bias, pairs)
    total = _add_negatives(total, queries, hard_negatives, scale)
    own = scale * _row_products(queries, candidates[targets]) + bias[targets]
    return _masked(total - own, mask)


def matryoshka(
    loss: Callable[..., Float[Array, "batch"]],
    dims: tuple[int, ...],
    weights: tuple[float, ...] | None = None,
) -> Callable[..., Float[Array, "batch"]]:
    """Makes a loss that the first dimensions of the vectors must satisfy by themselves.

    Args:
        loss: Of this module: `(queries, docs, *, ...) -> [batch]`.
        dims: Lengths of the prefixes, each of which is scaled to length 1.
        weights: Of each prefix; None weighs all as 1.

    Returns:
        The same function, of the weighted sum over prefixes. Hard negatives are cut as well.

    Raises:
        ValueError: If `dims` is empty, or weights are not as many; when called, if a prefix is
            longer than the vectors.

    Reference: Kusupati et al., 2022, https://arxiv.org/abs/2205.13147, eq. 1.
    """
    weights = (1.0,) * len(dims) if weights is None else weights
    if not dims or len(weights) != len(dims) or min(dims) < 1:
        raise ValueError(f"dims {dims} with weights {weights}: give as many of both, dims above 0.")

    def nested(queries: Array, docs: Array, **options) -> Array:
        if max(dims) > queries.shape[1]:
            raise ValueError(f"a prefix of {max(dims)} of vectors of {queries.shape[1]} numbers.")
        total = jnp.zeros(len(queries))
        for dim, weight in zip(dims, weights, strict=True):
            cut = dict(options)
            if cut.get("hard_negatives") is not None:
                cut["hard_negatives"] = _unit(cut["hard_negatives"][..., :dim])
            total += weight * loss(_unit(queries[:, :dim]), _unit(docs[:, :dim]), **cut)
        return total

    return nested


def make_sum(chunk_size: int | None) -> SumFn:
    """The sum over pairs, of all logits at once or tile by tile."""
    if chunk_size is None:
        return _dense_sum

    def chunked(kind, rows, columns, scale, bias, pairs):
        return sum_over_pairs(kind, rows, columns, scale, bias, pairs, chunk_size, None)

    return chunked


def softmax_losses(sum_fn, queries, docs, scale, mask, ids, hard_negatives, log_q):
    """The losses of `info_nce`, over any way to sum over pairs."""
    scale = jnp.asarray(scale, jnp.float32)
    bias = jnp.zeros(len(docs)) if log_q is None else -log_q.astype(jnp.float32)
    total = sum_fn("softmax", queries, docs, scale, bias, _make_pairs(len(docs), mask, ids))
    total = _add_negatives(total, queries, hard_negatives, scale)
    return _masked(total - (scale * _row_products(queries, docs) + bias), mask)


def sigmoid_losses(sum_fn, queries, docs, scale, bias, mask, ids, hard_negatives, log_q):
    """The losses of `sigmoid_contrastive`, over any way to sum over pairs."""
    scale, bias = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    biases = jnp.broadcast_to(bias, docs.shape[:1])
    if log_q is not None:
        biases = biases - log_q.astype(jnp.float32)
    total = sum_fn("sigmoid", queries, docs, scale, biases, _make_pairs(len(docs), mask, ids))
    if hard_negatives is not None:
        further = scale * _further_products(queries, hard_negatives) + bias
        total += jnp.sum(jax.nn.softplus(further), axis=1)
    return _masked(total, mask)


def check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size) -> None:
    """Raises unless all arguments are of the same rows."""
    if queries.shape != docs.shape:
        raise ValueError(
            f"queries are {queries.shape} but docs {docs.shape}: rows must be pairs of one length."
        )
    for name, values in {"mask": mask, "ids": ids, "log_q": log_q}.items():
        if values is not None and values.shape != queries.shape[:1]:
            raise ValueError(
                f"{name} is {values.shape}: wanted one for each of {len(queries)} rows."
            )
    _check_negatives(queries, hard_negatives)
    _check_chunk(chunk_size)


def _check_negatives(queries, hard_negatives) -> None:
    if hard_negatives is not None and (
        hard_negatives.ndim != 3
        or (hard_negatives.shape[0], hard_negatives.shape[2]) != queries.shape
        or not hard_negatives.shape[1]
    ):
        raise ValueError(
            f"hard_negatives are {hard_negatives.shape}: wanted [{queries.shape[0]}, negatives, "
            f"{queries.shape[1]}]."
        )


def _check_chunk(chunk_size: int | None) -> None:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: give 1 or more, or None.")


def _dense_sum(kind, rows, columns, scale, bias, pairs):
    """What `sum_over_pairs` sums, from the matrix of all logits."""
    logits, counted = pair_logits(rows, columns, scale, bias), is_counted(pairs)
    if kind == "sigmoid":
        losses = jax.nn.softplus(jnp.where(is_positive(pairs), -logits, logits))
        return jnp.sum(jnp.where(counted, losses, 0.0), axis=1)
    return jax.nn.logsumexp(jnp.where(counted, logits, FLOOR), axis=1)


def _make_pairs(count: int, mask, ids) -> Pairs:
    places = jnp.arange(count, dtype=jnp.int32)
    mask = jnp.ones(count, bool) if mask is None else mask
    return Pairs(places, places, mask, ids, ids)


def _row_products(queries, docs):
    return jnp.einsum(
        "bd,bd->b", queries, docs, precision="highest", preferred_element_type=jnp.float32
    )


def _further_products(queries, negatives):
    return jnp.einsum(
        "bd,bnd->bn", queries, negatives, precision="highest", preferred_element_type=jnp.float32
    )


def _add_negatives(total, queries, hard_negatives, scale):
    """The logsumexp over further logits as well."""
    if hard_negatives is None:
        return total
    further = scale * _further_products(queries, hard_negatives)
    return jnp.logaddexp(total, jax.nn.logsumexp(further, axis=1))


def _masked(losses, mask):
    return losses if mask is None else jnp.where(mask, losses, 0.0)


def _unit(vectors):
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
