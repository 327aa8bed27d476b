"""Exhaustive search: the oracle that other decoders are checked against."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, PyTree

from jaxembed.decoding.decoded import Decoded
from jaxembed.decoding.penalty import penalty_table
from jaxembed.decoding.step import (
    IMPOSSIBLE,
    StepFn,
    add_log_probs,
    call_step,
    check_search,
    has_shared,
    is_possible,
    log_probs,
    repeat_rows,
)

LARGEST = 10**6


def exhaustive_search(
    step_fn: StepFn,
    cache: PyTree,
    *,
    batch_size: int,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
    context: PyTree | None = None,
    length_penalty: str = "none",
    n_best: int = 1,
) -> Decoded:
    """Scores every sequence that ends with EOS or is cut at `max_len`, and returns the best.

    The step function is called once a length, with rows = batch_size * (vocab_size - 1) ** step:
    all beginnings of an item in the order of their tokens, batch-major.

    Args:
        step_fn: As in `beam_search`.
        cache: As in `beam_search`, without `Shared` parts.
        batch_size: Items.
        vocab_size: Tokens, EOS among them.
        bos_id: Token to start from.
        eos_id: Token that ends a hypothesis.
        max_len: Longest hypothesis, EOS counted.
        context: As in `beam_search`.
        length_penalty: As in `beam_search`.
        n_best: How many of the best to return.

    Returns:
        The n best of all hypotheses of each item. Equal scores go to the shorter one, then to the
        one that comes first in the order of tokens.

    Raises:
        ValueError: If there are more than 10^6 sequences an item, a number is out of range, or
            the step function does not keep its contract.
    """
    others = vocab_size - 1
    cut = others**max_len
    count = cut + sum(others**step for step in range(max_len))
    if count > LARGEST:
        raise ValueError(
            f"{vocab_size} tokens and {max_len} steps make {count:,} sequences, more than "
            f"{LARGEST:,}: take fewer, or beam_search."
        )
    if n_best < 1:
        raise ValueError(f"n_best is {n_best}: give 1 or more.")
    if has_shared(cache):
        raise ValueError("cache has Shared parts, but here the rows grow: give ordinary leaves.")
    found = check_search(
        step_fn,
        cache,
        context,
        batch_size=batch_size,
        rows_per_item=1,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )
    if found != vocab_size:
        raise ValueError(f"vocab_size is {vocab_size}, but step_fn has logits for {found} tokens.")
    penalties = penalty_table(length_penalty, max_len)
    going_on = jnp.asarray([token for token in range(vocab_size) if token != eos_id], jnp.int32)

    last = jnp.full((batch_size, 1), bos_id, jnp.int32)
    totals = jnp.zeros((batch_size, 1), jnp.float32)
    tokens = jnp.zeros((batch_size, 1, 0), jnp.int32)
    values = jnp.zeros((batch_size, 1, 0), jnp.float32)
    best = _Complete(
        scores=jnp.full((batch_size, n_best), IMPOSSIBLE, jnp.float32),
        tokens=jnp.zeros((batch_size, n_best, max_len), jnp.int32),
        log_probs=jnp.zeros((batch_size, n_best, max_len), jnp.float32),
        lengths=jnp.zeros((batch_size, n_best), jnp.int32),
        finished=jnp.zeros((batch_size, n_best), bool),
    )
    for length in range(1, max_len + 1):
        logits, cache = call_step(step_fn, last.reshape(-1), cache, context)
        now = log_probs(logits).reshape(batch_size, -1, vocab_size)
        ends = _extend(totals, tokens, values, now, jnp.asarray([eos_id], jnp.int32))
        best = _keep_best(best, ends, penalties[length], finished=True)
        if not others:
            break
        totals, tokens, values = _extend(totals, tokens, values, now, going_on)
        cache = repeat_rows(cache, others)
        last = tokens[:, :, -1]
    if others:
        best = _keep_best(best, (totals, tokens, values), penalties[max_len], finished=False)
    return Decoded(**best._asdict(), optimal=best.lengths[:, 0] > 0)


class _Complete(NamedTuple):
    """The best hypotheses found, best first."""

    scores: Float32[Array, "batch best"]
    tokens: Int32[Array, "batch best length"]
    log_probs: Float32[Array, "batch best length"]
    lengths: Int32[Array, "batch best"]
    finished: Bool[Array, "batch best"]


def _extend(totals, tokens, values, now, ids):
    """All beginnings, each followed by each of some tokens."""
    batch, rows = totals.shape
    more = now[:, :, ids]  # [batch, rows, ids]
    totals = add_log_probs(totals[:, :, None], more).reshape(batch, -1)
    tokens, values = (jnp.repeat(history, len(ids), axis=1) for history in (tokens, values))
    new = jnp.broadcast_to(ids, more.shape).reshape(batch, -1, 1)
    tokens = jnp.concatenate([tokens, new], axis=2)
    return totals, tokens, jnp.concatenate([values, more.reshape(batch, -1, 1)], axis=2)


def _keep_best(best: _Complete, hypotheses, penalty, *, finished: bool) -> _Complete:
    """Adds all hypotheses of one length, and keeps as many as there were."""
    sums, tokens, values = hypotheses
    possible = is_possible(sums)
    length = tokens.shape[2]
    padding = ((0, 0), (0, 0), (0, best.tokens.shape[2] - length))
    new = _Complete(
        scores=jnp.where(possible, sums / penalty, IMPOSSIBLE),
        tokens=jnp.pad(jnp.where(possible[..., None], tokens, 0), padding),
        log_probs=jnp.pad(jnp.where(possible[..., None], values, 0.0), padding),
        lengths=jnp.where(possible, length, 0),
        finished=possible & finished,
    )
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), best, new)
    _, order = lax.top_k(both.scores, best.scores.shape[1])
    rows = jnp.arange(order.shape[0])[:, None]
    return jax.tree.map(lambda field: field[rows, order], both)
