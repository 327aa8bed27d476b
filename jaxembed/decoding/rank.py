"""The best continuations of a beam, without sorting or even writing all of them."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

from jaxembed.decoding.step import add_log_probs, normalise, normalisers


class Candidates(NamedTuple):
    """The best continuations of a step, best first."""

    totals: Float32[Array, "batch candidates"]
    places: Int32[Array, "batch candidates"]
    tokens: Int32[Array, "batch candidates"]
    log_probs: Float32[Array, "batch candidates"]


def rank(
    totals: Float32[Array, "batch beam"],
    logits: Float[Array, "batch beam vocab"],
    count: int,
    allowed: Bool[Array, "#batch 1 vocab"] | None = None,
) -> Candidates:
    """The continuations with the highest sums of log-probabilities.

    They are those of `lax.top_k` over all beam * vocab sums, which costs more than the model where
    the vocabulary is large. Here the vocabulary is cut into runs: the best `count` sums lie in the
    `count` runs with the best maxima, and only the sums in these are made and sorted.

    Args:
        totals: Sums so far.
        logits: Of the next token.
        count: How many to return, or all if there are fewer.
        allowed: False at tokens that are ruled out; probabilities are not renormalised.

    Returns:
        The continuations; equal sums by place, then by id. What is impossible may fill the end.
    """
    batch, beam, vocab = logits.shape
    length = _run_length(vocab)
    whole, runs = vocab // length, -(-vocab // length)
    # They are read several times: without a barrier the model's last addition is made for each.
    logits = lax.optimization_barrier(logits.astype(jnp.float32))
    peak, log_sum = normalisers(logits)
    if allowed is not None:
        # Not a finite floor: the model's own mask may be as low.
        logits = jnp.where(allowed, logits, -jnp.inf)

    split = logits[:, :, : whole * length].reshape(batch, beam, whole, length)
    maxima = jnp.max(split, axis=3)
    if runs > whole:
        rest = jnp.max(logits[:, :, whole * length :], axis=2, keepdims=True)
        maxima = jnp.concatenate([maxima, rest], axis=2)
    sums = add_log_probs(totals[:, :, None], normalise(maxima, peak, log_sum))
    _, best = lax.top_k(sums.reshape(batch, -1), min(count, beam * runs))
    best = jnp.sort(best, axis=1)  # so that equal sums stay in order
    places, run = best // runs, best % runs

    ids = run[:, :, None] * length + jnp.arange(length, dtype=jnp.int32)[None, None]
    flat = places[:, :, None] * vocab + jnp.minimum(ids, vocab - 1)
    found = jnp.take_along_axis(logits.reshape(batch, -1), flat.reshape(batch, -1), axis=1)
    found = jnp.where(ids < vocab, found.reshape(ids.shape), -jnp.inf)
    total, peak, log_sum = (
        jnp.take_along_axis(field.reshape(batch, beam), places, axis=1)[:, :, None]
        for field in (totals, peak, log_sum)
    )
    values = normalise(found, peak, log_sum)
    sums = add_log_probs(total, values).reshape(batch, -1)
    sums, chosen = lax.top_k(sums, min(count, beam * vocab))
    flat, values = (
        jnp.take_along_axis(field.reshape(batch, -1), chosen, axis=1) for field in (flat, values)
    )
    return Candidates(sums, flat // vocab, flat % vocab, values)


def _run_length(vocab: int) -> int:
    """Makes both sorts about equally long, and leaves no remainder if possible."""
    wanted = max(1, math.isqrt(vocab // 2))
    # A remainder costs a copy of all logits.
    divisors = [n for n in range(max(1, wanted // 2), 2 * wanted + 1) if vocab % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted), default=wanted)
