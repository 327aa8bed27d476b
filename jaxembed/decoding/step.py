"""The step function that all decoders share: how it is checked, called and its logits are read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, PyTree

StepFn = Callable[..., tuple[Array, PyTree]]

# Stands for log 0: finite, so that neither a product nor a difference of two can be NaN.
IMPOSSIBLE = -1e9
# A model masks tokens with logits of -1e7, -1e9 or -inf; no real token is that improbable.
_LEAST_LOG_PROB = -1e6


def log_probs(logits: Float[Array, "*axes vocab"]) -> Float32[Array, "*axes vocab"]:
    """Log-probabilities in float32; `IMPOSSIBLE` for tokens that the model masks, and for NaN."""
    logits = logits.astype(jnp.float32)
    return normalise(logits, *normalisers(logits))


def normalisers(
    logits: Float32[Array, "*axes vocab"],
) -> tuple[Float32[Array, "*axes 1"], Float32[Array, "*axes 1"]]:
    """The highest logit, and the logarithm of the sum of all powers relative to it."""
    peak = jnp.max(logits, axis=-1, keepdims=True)
    return peak, jnp.log(jnp.sum(jnp.exp(logits - peak), axis=-1, keepdims=True))


def normalise(
    logits: Float32[Array, "*axes some"],
    peak: Float32[Array, "*axes 1"],
    log_sum: Float32[Array, "*axes 1"],
) -> Float32[Array, "*axes some"]:
    """Log-probabilities of some logits; see `log_probs` and `normalisers`."""
    values = logits - peak - log_sum
    return jnp.where(values > _LEAST_LOG_PROB, values, IMPOSSIBLE)


def is_possible(totals: Float32[Array, "*axes"]) -> Bool[Array, "*axes"]:
    """Tells sums of log-probabilities from stand-ins for log 0."""
    return totals > IMPOSSIBLE / 2


def add_log_probs(totals: Float32[Array, "..."], more: Float32[Array, "..."]) -> Array:
    """The sum of log-probabilities; `IMPOSSIBLE` where either is."""
    both = is_possible(totals) & is_possible(more)
    return jnp.where(both, totals + more, IMPOSSIBLE)


class Shared(NamedTuple):
    """Part of a cache that an item has once for all its beam: not repeated, not reordered by beam.

    For what only grows, such as the keys and values of the steps so far: a step function that
    keeps here what each place of the beam has added, and in an ordinary leaf at which place its
    beginning was at each step, is spared copying all of it at every step.
    """

    tree: PyTree


def has_shared(cache: PyTree) -> bool:
    """Whether any part of a cache is `Shared`."""
    parts = jax.tree.leaves(cache, is_leaf=lambda part: isinstance(part, Shared))
    return any(isinstance(part, Shared) for part in parts)


def map_rows(function: Callable[[Array], Array], cache: PyTree) -> PyTree:
    """Applies a function to the leaves of a cache that are not `Shared`."""

    def apply(part: Any) -> Any:
        return part if isinstance(part, Shared) else function(part)

    return jax.tree.map(apply, cache, is_leaf=lambda part: isinstance(part, Shared))


def repeat_rows(cache: PyTree, times: int) -> PyTree:
    """Repeats each row of every leaf that is not `Shared`, batch-major."""
    return cache if times == 1 else map_rows(lambda x: jnp.repeat(x, times, axis=0), cache)


def call_step(
    step_fn: StepFn, tokens: Int32[Array, "rows"], cache: PyTree, context: PyTree | None
) -> Any:
    """Calls a step function with the context it was made for; what it returns is unchecked."""
    return step_fn(tokens, cache) if context is None else step_fn(tokens, cache, context)


def check_search(
    step_fn: StepFn,
    cache: PyTree,
    context: PyTree | None,
    *,
    batch_size: int,
    rows_per_item: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
) -> int:
    """Checks what every decoder is given, without running anything.

    Returns:
        The size of the vocabulary.

    Raises:
        ValueError: If a number is out of range, a leaf does not lead with the batch, or the step
            function does not return logits [rows, vocab] and a cache like the one it got.
    """
    for name, value in {"batch_size": batch_size, "max_len": max_len}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more.")
    for name, tree in {"cache": cache, "context": context}.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            if not jnp.shape(leaf) or jnp.shape(leaf)[0] != batch_size:
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}: every leaf "
                    f"must lead with the batch of {batch_size}; the decoder repeats it by beam."
                )
    rows = batch_size * rows_per_item
    given = jax.eval_shape(lambda: repeat_rows(cache, rows_per_item))
    tokens = jax.ShapeDtypeStruct((rows,), jnp.int32)
    returned = jax.eval_shape(
        lambda tokens, cache: call_step(step_fn, tokens, cache, context), tokens, given
    )
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(
            f"step_fn returned {type(returned).__name__}, not (logits, cache): return both."
        )
    logits, after = returned
    if logits.ndim != 2 or logits.shape[0] != rows:
        raise ValueError(
            f"step_fn returned logits {logits.shape} for {rows} tokens: wanted ({rows}, vocab)."
        )
    before, after = _describe(given), _describe(after)
    if before != after:
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        raise ValueError(
            f"step_fn changed the cache at {changed[0] or 'its root'}: "
            f"{before.get(changed[0], 'nothing')} came in and "
            f"{after.get(changed[0], 'nothing')} came out; return the same leaves."
        )
    for name, value in {"bos_id": bos_id, "eos_id": eos_id}.items():
        # BOS may lie behind the outputs: it is read, never written.
        if value < 0 or (name == "eos_id" and value >= logits.shape[1]):
            raise ValueError(
                f"{name} is {value}, but the step function has logits for ids 0 to "
                f"{logits.shape[1] - 1}."
            )
    return logits.shape[1]


def _describe(tree: PyTree) -> dict[str, Any]:
    """Shape and dtype of each leaf by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
