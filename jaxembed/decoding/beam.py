"""Beam search with named scores and stopping rules, and a certificate of its result."""

import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int, Int32, PyTree

from jaxembed.decoding.decoded import Decoded
from jaxembed.decoding.penalty import penalty_table
from jaxembed.decoding.rank import Candidates, rank
from jaxembed.decoding.step import (
    IMPOSSIBLE,
    StepFn,
    call_step,
    check_search,
    is_possible,
    map_rows,
    repeat_rows,
)

Stop = Literal["exact", "huggingface-false", "huggingface-true", "huggingface-never", "ctranslate2"]


def beam_search(
    step_fn: StepFn,
    cache: PyTree,
    *,
    batch_size: int,
    beam_size: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
    context: PyTree | None = None,
    length_penalty: str = "none",
    stop: Stop = "exact",
    max_lens: Int[Array | np.ndarray, "batch"] | None = None,
    min_len: int = 0,
    forbidden: Bool[Array | np.ndarray, "vocab"]
    | Int[Array | np.ndarray, "ids"]
    | Sequence[int]
    | None = None,
    forced_first: int | Int[Array | np.ndarray, "batch"] | None = None,
    n_best: int | None = None,
) -> Decoded:
    """Keeps the `beam_size` most probable beginnings and returns the best hypotheses they lead to.

    A step extends every live beginning by every token and ranks all these continuations by their
    summed log-probability. Of the `beam_size` best, those that end with EOS (or have reached their
    longest length) finish and are from then on ranked by sum / penalty; the best `beam_size`
    continuations without EOS live on. So a beam of 1 without penalty is greedy search.

    Items never influence one another: an item that is done is frozen. Equal scores go to the
    better beginning, then to the lowest id. Put `jax.jit` around the caller: without it the loop
    is compiled at every call.

    Args:
        step_fn: `(tokens [rows], cache) -> (logits [rows, vocab], cache)`, pure, with rows =
            batch_size * beam_size, batch-major; with a `context` it gets that as a third argument.
            Logits of -inf or below -1e6 mask a token.
        cache: State of the model before BOS; leaves lead with `batch_size` and are repeated and
            reordered by beam, but for those in `Shared`.
        batch_size: Items.
        beam_size: Live beginnings an item.
        bos_id: Token to start from.
        eos_id: Token that ends a hypothesis.
        max_len: Longest hypothesis, EOS counted.
        context: Arrays that no step changes and that are not repeated by beam, such as the
            encoder's keys and values; leaves lead with `batch_size`.
        length_penalty: "none", "length^A" or "gnmt^A", see `penalty_table`; L counts EOS, not BOS.
        stop: When an item is done, if not at its longest length. "exact": when no live beginning
            can still enter the n best. "huggingface-false", "-true", "-never": as `early_stopping`
            of `generate`: when there are `beam_size` finished hypotheses and the best live one
            would not beat the worst of them at its present length; when there are `beam_size`;
            as the first, but at the longest length if A > 0. "ctranslate2": without penalty when
            the best continuation of some step has finished and there are n hypotheses; with one
            when `beam_size` have finished. All but "exact" can miss the beam's best.
        max_lens: Longest hypothesis of each item, at most `max_len`; 0 for padding, which then
            costs no step and gets no hypothesis.
        min_len: Fewest tokens of a hypothesis, EOS counted.
        forbidden: Tokens that no hypothesis may hold: their ids, or a mask over the vocabulary.
            Probabilities are not renormalised.
        forced_first: Token that every hypothesis, or those of each item, must start with; its
            log-probability counts.
        n_best: How many hypotheses to return, and what "exact" and "ctranslate2" wait for; None
            for `beam_size`. 1 is the quickest.

    Returns:
        The n best hypotheses of each item.

    Raises:
        ValueError: If a number is out of range, a name is unknown, or the step function does not
            keep its contract.

    Reference: Graves, 2012, https://arxiv.org/abs/1211.3711, section 2.4; "exact" is Huang et al.,
    2017, https://aclanthology.org/D17-1227, section 3, for any penalty that is monotone in L.
    """
    n_best = beam_size if n_best is None else n_best
    _check_numbers(beam_size, n_best, max_len, min_len, stop)
    vocab_size = check_search(
        step_fn,
        cache,
        context,
        batch_size=batch_size,
        rows_per_item=beam_size,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )
    if max_lens is None:
        limits = jnp.full(batch_size, max_len, jnp.int32)
    else:
        _check_batch("max_lens", max_lens, batch_size)
        limits = jnp.clip(jnp.asarray(max_lens), 0, max_len).astype(jnp.int32)
    table = penalty_table(length_penalty, max_len)
    rules = _Rules(
        eos_id=eos_id,
        n_best=n_best,
        stop=stop,
        min_len=min_len,
        penalties=jnp.asarray(table),
        rises=bool(table[-1] > table[1]),
        is_flat=bool((table == 1).all()),
        limits=limits,
        banned=_mask(forbidden, vocab_size),
        first=_first(forced_first, batch_size, vocab_size),
    )
    call = partial(call_step, step_fn, context=context)
    rows = repeat_rows(jax.tree.map(jnp.asarray, cache), beam_size)
    end = lax.while_loop(
        lambda beam: (beam.step < max_len) & ~jnp.all(beam.done),
        lambda beam: _advance(beam, rules, call),
        _start(rows, limits, beam_size, bos_id, max_len),
    )
    return _resolve(end, n_best)


class _Rules(NamedTuple):
    """What does not change during a search."""

    eos_id: int
    n_best: int
    stop: str
    min_len: int
    penalties: Float32[Array, "lengths"]
    rises: bool  # the penalty with the length
    is_flat: bool
    limits: Int32[Array, "batch"]
    banned: Bool[Array, "vocab"] | None
    first: Int32[Array, "batch"] | None


class _Pool(NamedTuple):
    """The best finished hypotheses, best first: the last token and the live place before it."""

    scores: Float32[Array, "batch beam"]
    lengths: Int32[Array, "batch beam"]
    places: Int32[Array, "batch beam"]
    tokens: Int32[Array, "batch beam"]
    log_probs: Float32[Array, "batch beam"]
    finished: Bool[Array, "batch beam"]


class _Beam(NamedTuple):
    """State of a search. `places`, `tokens`, `log_probs` hold the live beginnings of each step."""

    step: Int32[Array, ""]
    cache: PyTree
    last: Int32[Array, "batch beam"]
    totals: Float32[Array, "batch beam"]
    places: Int32[Array, "length batch beam"]
    tokens: Int32[Array, "length batch beam"]
    log_probs: Float32[Array, "length batch beam"]
    pool: _Pool
    completed: Int32[Array, "batch"]  # hypotheses so far, those that left the pool too
    led: Bool[Array, "batch"]  # the best continuation of some step has finished
    missed: Float32[Array, "batch"]  # the highest score that anything dropped could have reached
    done: Bool[Array, "batch"]


def _start(cache, limits, beam_size, bos_id, max_len) -> _Beam:
    """One beginning an item; the other places are empty, or all would be the same."""
    batch = limits.shape[0]
    ints = jnp.zeros((batch, beam_size), jnp.int32)
    empty = jnp.full((batch, beam_size), IMPOSSIBLE, jnp.float32)
    history = jnp.zeros((max_len, batch, beam_size), jnp.int32)
    return _Beam(
        step=jnp.int32(0),
        cache=cache,
        last=jnp.full_like(ints, bos_id),
        totals=empty.at[:, 0].set(0.0),
        places=history,
        tokens=history,
        log_probs=history.astype(jnp.float32),
        pool=_Pool(empty, ints, ints, ints, jnp.zeros_like(empty), ints > 0),
        completed=jnp.zeros_like(limits),
        led=limits < 0,
        missed=empty[:, 0],
        done=limits < 1,
    )


def _advance(beam: _Beam, rules: _Rules, call) -> _Beam:
    """One step of every item."""
    batch, size = beam.totals.shape
    logits, cache = call(beam.last.reshape(-1), beam.cache)
    logits = logits.reshape(batch, size, -1)
    # Enough to fill the beam, and the best that is left.
    allowed = _allowed(beam.step, logits.shape[2], rules)
    ranked = rank(beam.totals, logits, 2 * size + 1, allowed)
    length = beam.step + 1
    at_limit = (length == rules.limits)[:, None]
    ends = ranked.tokens == rules.eos_id
    possible = is_possible(ranked.totals)
    finishes = possible & (ends | at_limit) & (jnp.arange(ends.shape[1]) < size)[None]
    lives = possible & ~ends & ~at_limit & (jnp.cumsum(~ends, axis=1) <= size)
    scores = ranked.totals / rules.penalties[length]

    pool = _merge(beam.pool, ranked, scores, finishes, ends, length)
    totals, kept = lax.top_k(jnp.where(lives, ranked.totals, IMPOSSIBLE), size)
    last, places, kept_values = (
        jnp.take_along_axis(field, kept, axis=1)
        for field in (ranked.tokens, ranked.places, ranked.log_probs)
    )
    completed = beam.completed + jnp.sum(finishes, axis=1, dtype=jnp.int32)
    led = beam.led | finishes[:, 0]
    ahead = jnp.max(_reach(totals, length + 1, rules), axis=1)
    done = _is_done(pool, totals[:, 0], ahead, completed, led, length, rules)
    done = done | at_limit[:, 0] | ~is_possible(totals[:, 0])
    # Every continuation behind the ranked ones scores no more than the last of them, which is
    # never kept: of the first 2 * beam_size at least beam_size do not end.
    reach = jnp.where(ends, scores, _reach(ranked.totals, length + 1, rules))
    dropped = jnp.where(possible & ~finishes & ~lives, reach, IMPOSSIBLE)
    missed = jnp.maximum(beam.missed, jnp.max(dropped, axis=1))
    missed = jnp.where(done, jnp.maximum(missed, ahead), missed)

    def frozen(new: Array, old: Array) -> Array:
        return jnp.where(beam.done.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return _Beam(
        step=length,
        cache=_reorder(cache, places),
        last=last,
        totals=frozen(totals, beam.totals),
        places=beam.places.at[beam.step].set(places),
        tokens=beam.tokens.at[beam.step].set(last),
        log_probs=beam.log_probs.at[beam.step].set(kept_values),
        pool=jax.tree.map(frozen, pool, beam.pool),
        completed=frozen(completed, beam.completed),
        led=frozen(led, beam.led),
        missed=frozen(missed, beam.missed),
        done=beam.done | done,
    )


def _allowed(step, vocab_size: int, rules: _Rules) -> Bool[Array, "#batch 1 vocab"] | None:
    """Which tokens the caller does not rule out at this step; None for all."""
    ids = jnp.arange(vocab_size)[None, None]
    conditions = []
    if rules.banned is not None:
        conditions.append(~rules.banned[None, None])
    if rules.min_len > 1:
        conditions.append((step + 1 >= rules.min_len) | (ids != rules.eos_id))
    if rules.first is not None:
        conditions.append((step > 0) | (ids == rules.first[:, None, None]))
    return reduce(operator.and_, conditions) if conditions else None


def _merge(pool: _Pool, ranked: Candidates, scores, finishes, ends, length) -> _Pool:
    """Adds the hypotheses that finish at this step, and keeps the best."""
    size = pool.scores.shape[1]
    new = _Pool(
        scores=jnp.where(finishes, scores, IMPOSSIBLE),
        lengths=jnp.where(finishes, length, 0),
        places=ranked.places,
        tokens=ranked.tokens,
        log_probs=ranked.log_probs,
        finished=finishes & ends,
    )
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new[:, :size]], 1), pool, new)
    _, best = lax.top_k(both.scores, size)
    return jax.tree.map(lambda field: jnp.take_along_axis(field, best, axis=1), both)


def _reach(totals, length, rules: _Rules) -> Float32[Array, "batch any"]:
    """The highest score that beginnings can reach which would have `length` tokens or more.

    Log-probabilities are at most 0 and the penalty is monotone in the length, so it is the present
    sum at the shortest or at the longest length.
    """
    shortest = rules.penalties[jnp.minimum(length, rules.limits)][:, None]
    longest = rules.penalties[rules.limits][:, None]
    reach = jnp.maximum(totals / shortest, totals / longest)
    return jnp.where(is_possible(totals), reach, IMPOSSIBLE)


def _is_done(pool: _Pool, best, ahead, completed, led, length, rules: _Rules) -> Array:
    """Whether the stopping rule holds; `best` is the sum of the best live beginning."""
    size = pool.scores.shape[1]
    is_full = pool.lengths[:, -1] > 0
    if rules.stop == "exact":
        return pool.scores[:, rules.n_best - 1] >= ahead
    if rules.stop == "huggingface-true":
        return is_full
    if rules.stop == "ctranslate2":
        return led & (completed >= rules.n_best) if rules.is_flat else completed >= size
    at_longest = rules.stop == "huggingface-never" and rules.rises
    divisor = rules.penalties[rules.limits if at_longest else length]
    return is_full & (pool.scores[:, -1] >= best / divisor)


def _reorder(cache: PyTree, places: Int32[Array, "batch beam"]) -> PyTree:
    """Gives each place the cache of the beginning that it goes on from."""
    batch, size = places.shape
    if size == 1:
        return cache
    rows = (places + size * jnp.arange(batch)[:, None]).reshape(-1)
    return map_rows(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), cache)


def _resolve(end: _Beam, n_best: int) -> Decoded:
    """Follows the places back from the last tokens."""
    pool = jax.tree.map(lambda field: field[:, :n_best], end.pool)
    last = pool.lengths - 1

    def back(count, found):
        places, tokens, values = found
        step = end.step - 1 - count
        before = step < last
        live = (end.places, end.tokens, end.log_probs)
        earlier, token, value = (jnp.take_along_axis(x[step], places, axis=1) for x in live)
        token = jnp.where(before, token, jnp.where(step == last, pool.tokens, 0))
        value = jnp.where(before, value, jnp.where(step == last, pool.log_probs, 0.0))
        places = jnp.where(before, earlier, places)
        return places, tokens.at[step].set(token), values.at[step].set(value)

    tokens = jnp.zeros((end.tokens.shape[0], *last.shape), jnp.int32)
    start = (pool.places, tokens, tokens.astype(jnp.float32))
    _, tokens, values = lax.fori_loop(0, end.step, back, start)
    return Decoded(
        tokens=jnp.moveaxis(tokens, 0, -1),
        scores=pool.scores,
        log_probs=jnp.moveaxis(values, 0, -1),
        lengths=pool.lengths,
        finished=pool.finished,
        optimal=(pool.lengths[:, 0] > 0) & (pool.scores[:, 0] >= end.missed),
    )


def _check_numbers(beam_size: int, n_best: int, max_len: int, min_len: int, stop: str) -> None:
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}: give 1 or more.")
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is {n_best}: give 1 to beam_size, which is {beam_size}.")
    if not 0 <= min_len <= max_len:
        raise ValueError(f"min_len is {min_len}: give 0 to max_len, which is {max_len}.")
    if stop not in get_args(Stop):
        raise ValueError(f"Unknown stop {stop!r}: choose one of {', '.join(get_args(Stop))}.")


def _check_batch(name: str, values, batch_size: int) -> None:
    if jnp.shape(values) != (batch_size,):
        raise ValueError(
            f"{name} has shape {jnp.shape(values)}: give one value for each of the {batch_size} "
            "items."
        )


def _mask(forbidden, vocab_size: int) -> Bool[Array, "vocab"] | None:
    """The forbidden tokens as a mask."""
    if forbidden is None:
        return None
    if not isinstance(forbidden, jax.Array):
        forbidden = np.asarray(forbidden, None if np.size(forbidden) else np.int32)
    if forbidden.dtype == bool:
        if forbidden.shape != (vocab_size,):
            raise ValueError(
                f"forbidden is a mask of shape {forbidden.shape}: wanted ({vocab_size},)."
            )
        return jnp.asarray(forbidden)
    if isinstance(forbidden, np.ndarray):
        _check_ids("forbidden", forbidden, vocab_size)
    return jnp.zeros(vocab_size, bool).at[jnp.asarray(forbidden, jnp.int32)].set(True)


def _first(forced_first, batch_size: int, vocab_size: int) -> Int32[Array, "batch"] | None:
    """The forced first token of each item."""
    if forced_first is None:
        return None
    if isinstance(forced_first, int):
        forced_first = np.full(batch_size, forced_first)
    _check_batch("forced_first", forced_first, batch_size)
    if isinstance(forced_first, np.ndarray):
        _check_ids("forced_first", forced_first, vocab_size)
    return jnp.asarray(forced_first, jnp.int32)


def _check_ids(name: str, ids: np.ndarray, vocab_size: int) -> None:
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong[0]}: token ids go from 0 to {vocab_size - 1}.")
