"""The loss of an encoder-decoder that is trained by teacher forcing."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, PyTree

from jaxembed.losses import token_cross_entropy
from jaxembed.models.seq2seq.recurrent import Seq2Seq
from jaxembed.models.seq2seq.transformer import TransformerSeq2Seq


@dataclasses.dataclass(frozen=True)
class TokenCrossEntropy:
    """Which tokens enter the loss, and how: all of the target, EOS among them.

    Attributes:
        label_smoothing: Share of each target's probability that goes to all tokens alike.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}: give a share from 0 to below 1."
            )


def make_translation_loss(
    model: Seq2Seq | TransformerSeq2Seq, *, bos_id: int, label_smoothing: float = 0.0
) -> Any:
    """Makes the LossFn of batches of pairs.

    Args:
        model: What is trained.
        bos_id: Token that the decoder starts from.
        label_smoothing: See `token_cross_entropy`.

    Returns:
        A LossFn. Batches hold `source`, `target` [batch, length] int32 and their lengths
        `source_lengths`, `target_lengths` [batch]; a row of length 0 is padding. The loss, in
        nats, is the mean over all target tokens of the batch, on whichever devices they lie; its
        metrics are `loss`, of the true tokens alone, and `accuracy`, by the number of tokens.
    """

    def loss_fn(
        params: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float32[Array, ""], dict[str, tuple[Array, Array]]]:
        target, lengths = batch["target"], batch["target_lengths"]
        read = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=bos_id)
        logits = model.apply(
            {"params": params},
            batch["source"],
            batch["source_lengths"],
            read,
            deterministic=False,
            rngs={"dropout": key},
        )
        mask = jnp.arange(target.shape[1])[None] < lengths[:, None]
        count = jnp.sum(mask).astype(jnp.float32)
        plain = jnp.sum(token_cross_entropy(logits, target, mask=mask))
        loss = plain
        if label_smoothing:
            loss = jnp.sum(
                token_cross_entropy(logits, target, mask=mask, label_smoothing=label_smoothing)
            )
        right = jnp.sum((jnp.argmax(logits, axis=-1) == target) & mask).astype(jnp.float32)
        metrics = {"loss": (plain, count), "accuracy": (right, count)}
        return loss / jnp.maximum(count, 1.0), metrics

    return loss_fn
