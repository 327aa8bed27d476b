"""Sampling: tokens drawn from the model's distribution, whole or cut to its head."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Key, PyTree

from jaxembed.decoding.decoded import Decoded
from jaxembed.decoding.greedy import follow
from jaxembed.decoding.step import IMPOSSIBLE, StepFn, check_search, is_possible


def sample(
    step_fn: StepFn,
    cache: PyTree,
    key: Key[Array, ""],
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    max_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context: PyTree | None = None,
) -> Decoded:
    """Draws one hypothesis an item, token by token.

    The draws of an item depend on the key and its place in the batch, not on its batch mates or
    the size of the batch.

    Args:
        step_fn: As in `greedy_search`.
        cache: As in `greedy_search`.
        key: Random key.
        batch_size: Items.
        bos_id: Token to start from.
        eos_id: Token that ends a hypothesis.
        max_len: Longest hypothesis, EOS counted.
        temperature: Positive divisor of the logits; smaller is nearer to greedy.
        top_k: Draw from the so many most probable tokens and those equal to the last of them;
            None for all.
        top_p: Draw from the fewest most probable tokens that hold this share, in (0, 1], of what
            temperature and `top_k` left, and those equal to the last of them; None for all.
        context: As in `greedy_search`.

    Returns:
        One hypothesis an item. Scores and log-probabilities are the model's own, before
        temperature and cuts.

    Raises:
        ValueError: If a number is out of range or the step function does not keep its contract.

    Reference: Holtzman et al., 2020, https://arxiv.org/abs/1904.09751, section 3.1 (`top_p`).
    """
    vocab_size = check_search(
        step_fn,
        cache,
        context,
        batch_size=batch_size,
        rows_per_item=1,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature is {temperature}: give a positive number; greedy_search is its limit 0."
        )
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(f"top_k is {top_k}: give 1 to the {vocab_size} tokens there are, or None.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: give a share above 0 and up to 1, or None.")

    def choose(values, step):
        step_key = jax.random.fold_in(key, step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(batch_size))
        scaled = jnp.maximum(values / temperature, IMPOSSIBLE)
        scaled = jnp.where(is_possible(values), scaled, IMPOSSIBLE)
        logits = _cut(scaled, top_k, top_p)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    return follow(
        step_fn,
        cache,
        context,
        choose,
        batch_size=batch_size,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
    )


def _cut(
    logits: Float32[Array, "batch vocab"], top_k: int | None, top_p: float | None
) -> Float32[Array, "batch vocab"]:
    """Masks the tail of the distribution."""
    if top_k is not None:
        least = lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, IMPOSSIBLE)
    if top_p is not None:
        falling = -jnp.sort(-logits, axis=-1)
        before = jnp.cumsum(jax.nn.softmax(falling, axis=-1), axis=-1)
        before = jnp.pad(before, ((0, 0), (1, 0)))[:, :-1]  # the share of all more probable ones
        least = jnp.min(jnp.where(before < top_p, falling, 0.0), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, IMPOSSIBLE)
    return logits
