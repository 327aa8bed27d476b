"""Greedy search: the most probable token, step after step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, PyTree

from jaxembed.decoding.decoded import Decoded
from jaxembed.decoding.step import (
    IMPOSSIBLE,
    StepFn,
    add_log_probs,
    call_step,
    check_search,
    is_possible,
    log_probs,
)

Choose = Callable[[Float32[Array, "batch vocab"], Int32[Array, ""]], Int32[Array, "batch"]]


def greedy_search(
    step_fn: StepFn,
    cache: PyTree,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
    context: PyTree | None = None,
) -> Decoded:
    """Follows the most probable token until EOS or `max_len`.

    Items never influence one another. Put `jax.jit` around the caller: without it the loop is
    compiled at every call.

    Args:
        step_fn: `(tokens [batch], cache) -> (logits [batch, vocab], cache)`, pure; with a
            `context` it gets that as a third argument. Logits of -inf or below -1e6 mask a token.
        cache: State of the model before BOS; leaves lead with `batch_size`.
        batch_size: Items.
        bos_id: Token to start from.
        eos_id: Token that ends a hypothesis.
        max_len: Longest hypothesis, EOS counted.
        context: Arrays that no step changes; leaves lead with `batch_size`.

    Returns:
        One hypothesis an item; equal scores go to the lowest id.

    Raises:
        ValueError: If a number is out of range or the step function does not keep its contract.
    """
    check_search(
        step_fn,
        cache,
        context,
        batch_size=batch_size,
        rows_per_item=1,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )
    return follow(
        step_fn,
        cache,
        context,
        lambda values, _: jnp.argmax(values, axis=-1).astype(jnp.int32),
        batch_size=batch_size,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )


class _Path(NamedTuple):
    """One hypothesis an item, so far; `rival` is the best total of a token not chosen."""

    step: Int32[Array, ""]
    cache: PyTree
    last: Int32[Array, "batch"]
    tokens: Int32[Array, "length batch"]
    log_probs: Float32[Array, "length batch"]
    totals: Float32[Array, "batch"]
    rival: Float32[Array, "batch"]
    lengths: Int32[Array, "batch"]
    finished: Bool[Array, "batch"]


def follow(
    step_fn: StepFn,
    cache: PyTree,
    context: PyTree | None,
    choose: Choose,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
) -> Decoded:
    """Follows the tokens that `choose` picks from log-probabilities, one hypothesis an item."""

    def advance(path: _Path) -> _Path:
        logits, cache = call_step(step_fn, path.last, path.cache, context)
        values = log_probs(logits)
        chosen = choose(values, path.step)
        value = jnp.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
        others = jnp.where(jnp.arange(values.shape[1])[None] == chosen[:, None], IMPOSSIBLE, values)
        # Log-probabilities are at most 0, so a total bounds all that can follow it.
        rival = jnp.maximum(path.rival, add_log_probs(path.totals, jnp.max(others, axis=1)))
        # Without any possible token the hypothesis ends before it.
        active = ~path.finished & (path.lengths == path.step) & is_possible(value)
        return _Path(
            step=path.step + 1,
            cache=cache,
            last=chosen,
            tokens=path.tokens.at[path.step].set(jnp.where(active, chosen, 0)),
            log_probs=path.log_probs.at[path.step].set(jnp.where(active, value, 0.0)),
            totals=jnp.where(active, path.totals + value, path.totals),
            rival=jnp.where(active, rival, path.rival),
            lengths=path.lengths + active.astype(jnp.int32),
            finished=path.finished | (active & (chosen == eos_id)),
        )

    def goes_on(path: _Path) -> Bool[Array, ""]:
        return (path.step < max_len) & jnp.any(~path.finished & (path.lengths == path.step))

    zeros = jnp.zeros(batch_size, jnp.float32)
    start = _Path(
        step=jnp.int32(0),
        cache=cache,
        last=jnp.full(batch_size, bos_id, jnp.int32),
        tokens=jnp.zeros((max_len, batch_size), jnp.int32),
        log_probs=jnp.zeros((max_len, batch_size), jnp.float32),
        totals=zeros,
        rival=jnp.full_like(zeros, IMPOSSIBLE),
        lengths=jnp.zeros(batch_size, jnp.int32),
        finished=jnp.zeros(batch_size, bool),
    )
    end = lax.while_loop(goes_on, advance, jax.tree.map(jnp.asarray, start))
    complete = end.finished | (end.lengths == max_len)
    return Decoded(
        tokens=jnp.where(complete[:, None], end.tokens.T, 0)[:, None],
        scores=jnp.where(complete, end.totals, IMPOSSIBLE)[:, None],
        log_probs=jnp.where(complete[:, None], end.log_probs.T, 0.0)[:, None],
        lengths=jnp.where(complete, end.lengths, 0)[:, None],
        finished=end.finished[:, None],
        optimal=complete & (end.totals >= end.rival),
    )
