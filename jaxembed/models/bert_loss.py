"""The loss that `Bert` is pre-trained on: masked words, and whether a sentence follows another."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxembed.models.bert import Bert


def make_pretraining_loss(model: Bert) -> Any:
    """Makes the LossFn of pre-training.

    Batches are dicts of `ids` and `segments` [batch, length], `length` [batch], `places` and
    `targets` [batch, targets] with target -1 where there is none, and optionally `next` [batch], 0
    where the second segment follows the first and 1 where it does not, and `mask` [batch], False at
    rows that only fill up the batch. Words are predicted at `places` alone, so that logits over the
    vocabulary are made for those only.

    Args:
        model: With a `word_head`, and a `next_head` for batches that have `next`.

    Returns:
        `(params, batch, key) -> (loss, metrics)`: the mean over targets of the words'
        cross-entropy, plus that over examples of the next sentence's, in nats. Metrics are
        `word_loss`, `word_accuracy`, `next_loss` and `next_accuracy`.

    Raises:
        ValueError: If the model has no `word_head`.

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.2.
    """
    if not model.word_head:
        raise ValueError("the model has no word_head to be trained: set word_head=True.")

    def loss_fn(params: PyTree, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Any]]:
        rows = batch["mask"] if "mask" in batch else jnp.ones(len(batch["ids"]), bool)
        is_dropping = bool(model.dropout or model.attention_dropout)
        last, word_logits, next_logits = _run(model, params, batch, key if is_dropping else None)
        targets = batch["targets"]
        is_target = (targets >= 0) & rows[:, None]
        metrics = _judge("word", word_logits, targets, is_target)
        if "next" in batch:
            if next_logits is None:
                raise ValueError("examples are pairs: give the model a next_head.")
            metrics |= _judge("next", next_logits, batch["next"], rows)
        parts = [metrics[name] for name in ("word_loss", "next_loss") if name in metrics]
        return sum(total / jnp.maximum(count, 1.0) for total, count in parts), metrics

    return loss_fn


def predict_masked(model: Bert, params: PyTree, batch: Any) -> tuple[Array, Array | None]:
    """Logits for the words at `places` and, where the model has the head, for the next sentence.

    Args:
        model: With a `word_head`.
        params: Its parameters.
        batch: As for `make_pretraining_loss`.
    """
    _, word_logits, next_logits = _run(model, params, batch, None)
    return word_logits, next_logits


def _run(model, params, batch, key):
    """Last states, and the logits in float32; with a key, parts are dropped."""
    length = batch["ids"].shape[1]
    mask = jnp.arange(length)[None] < batch["length"][:, None]
    options = {"deterministic": key is None} | ({} if key is None else {"rngs": {"dropout": key}})
    states = model.apply(
        {"params": params},
        batch["ids"],
        mask,
        batch["segments"] if model.segments > 1 else None,
        method="hidden_states",
        **options,
    )
    chosen = jnp.take_along_axis(states[-1], batch["places"][:, :, None], axis=1)
    word_logits = model.apply({"params": params}, chosen, method="predict_words")
    if not model.next_head:
        return states[-1], word_logits.astype(jnp.float32), None
    pooled = model.apply({"params": params}, states[-1], method="pool", **options)
    next_logits = model.apply({"params": params}, pooled, method="predict_next")
    return states[-1], word_logits.astype(jnp.float32), next_logits.astype(jnp.float32)


def _judge(name, logits, targets, counted):
    """Loss and accuracy as totals over what counts, with its number."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    right = jnp.argmax(logits, axis=-1) == targets
    count = jnp.sum(counted, dtype=jnp.float32)
    return {
        f"{name}_loss": (jnp.sum(jnp.where(counted, losses, 0.0)), count),
        f"{name}_accuracy": (jnp.sum(right & counted, dtype=jnp.float32), count),
    }
