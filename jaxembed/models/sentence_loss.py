"""Losses that turn a `Bert` into an encoder of sentences: contrastive, or regression to scores."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxembed.losses import info_nce
from jaxembed.models.bert import Bert, SentenceBert
from jaxembed.nn.dense import Dense


class SimilarityHead(nn.Module):
    """The similarity of two vectors as a number from 0 to 1, whichever comes first.

    Attributes:
        hidden: Size of the middle.

    Reference: Tai et al., 2015, https://arxiv.org/abs/1503.00075, eq. 15, with a sigmoid for their
    distribution over scores.
    """

    hidden: int = 64

    @nn.compact
    def __call__(
        self, first: Float[Array, "batch width"], second: Float[Array, "batch width"]
    ) -> Float[Array, "batch"]:
        """Scores of pairs."""
        both = jnp.concatenate([jnp.abs(first - second), first * second], axis=1)
        return nn.sigmoid(Dense(1)(nn.tanh(Dense(self.hidden)(both))))[:, 0]


def sentence_vectors(
    model: Bert,
    params: PyTree,
    ids: Array,
    lengths: Array,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch width"]:
    """Mean over the tokens of the last layer, of unit length; with a key, parts are dropped."""
    options = {} if key is None else {"deterministic": False, "rngs": {"dropout": key}}
    pooled = SentenceBert(model).apply({"params": {"bert": params}}, ids, lengths, **options)
    pooled = pooled.astype(jnp.float32)
    # The square root of 0 has no gradient: rows that fill up a batch are of zeros.
    return pooled / jnp.sqrt(jnp.maximum(jnp.sum(pooled**2, axis=1, keepdims=True), 1e-12))


def make_sentence_pair_loss(model: Bert, *, temperature: float = 0.05) -> Any:
    """Makes a LossFn that draws pairs together, and apart from the other pairs of the batch.

    Batches are dicts of `first` and `second` [batch, length], ids, `first_length` and
    `second_length` [batch], `mask` [batch], False at rows that only fill up.

    Args:
        model: The encoder; parameters are {"encoder": its own}.
        temperature: See `info_nce`, which is taken both ways.

    Returns:
        `(params, batch, key) -> (loss, metrics)`, nats averaged over pairs.

    Reference: Gao et al., 2021, https://arxiv.org/abs/2104.08821, eq. 4, without hard negatives.
    """

    def loss_fn(params: PyTree, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Any]]:
        first, second = _both(model, params, batch, key)
        rows = batch["mask"]
        losses = [
            info_nce(one, other, temperature=temperature, mask=rows)
            for one, other in ((first, second), (second, first))
        ]
        total, count = jnp.sum(sum(losses)) / 2.0, jnp.sum(rows, dtype=jnp.float32)
        return total / jnp.maximum(count, 1.0), {"loss": (total, count)}

    return loss_fn


def make_regression_loss(model: Bert, head: SimilarityHead) -> Any:
    """Makes a LossFn that fits a head to scores of pairs, and the encoder with it.

    Args:
        model: The encoder; parameters are {"encoder": its own, "head": the head's}.
        head: What makes a score of two vectors.

    Returns:
        `(params, batch, key) -> (loss, metrics)` over batches as of `make_sentence_pair_loss` with
        `score` [batch] from 0 to 1; squared error averaged over pairs.
    """

    def loss_fn(params: PyTree, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Any]]:
        scores = head.apply({"params": params["head"]}, *_both(model, params, batch, key))
        rows = batch["mask"]
        total = jnp.sum(jnp.where(rows, jnp.square(scores - batch["score"]), 0.0))
        count = jnp.sum(rows, dtype=jnp.float32)
        return total / jnp.maximum(count, 1.0), {"loss": (total, count)}

    return loss_fn


def _both(model, params, batch, key):
    """Vectors of both sides, by one pass over all rows."""
    ids = jnp.concatenate([batch["first"], batch["second"]])
    lengths = jnp.concatenate([batch["first_length"], batch["second_length"]])
    is_dropping = bool(model.dropout or model.attention_dropout)
    vectors = sentence_vectors(model, params["encoder"], ids, lengths, key if is_dropping else None)
    return jnp.split(vectors, 2)
