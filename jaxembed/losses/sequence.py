"""Losses of models that predict a sequence token by token: unreduced, in nats."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int


def token_cross_entropy(
    logits: Float[Array, "batch length vocab"],
    targets: Int[Array, "batch length"],
    *,
    mask: Bool[Array, "batch length"] | None = None,
    label_smoothing: float = 0.0,
) -> Float32[Array, "batch length"]:
    """Cross-entropy of each token, computed in float32.

    For the mean over tokens divide the sum by the number of unmasked tokens, each summed over the
    whole batch and all devices first: a mean of means weights short batches too much.

    Args:
        logits: Scores of every token at every place.
        targets: Token ids in [0, vocab).
        mask: False marks padding.
        label_smoothing: Share, from 0 to below 1, of the target's probability that goes to all
            tokens alike, the target among them.

    Returns:
        Loss in nats for each token, 0 for padding. Not averaged.

    Raises:
        ValueError: If the shapes differ or `label_smoothing` is out of range.

    Reference: Szegedy et al., 2016, https://arxiv.org/abs/1512.00567, section 7.
    """
    if logits.shape[:2] != targets.shape:
        raise ValueError(
            f"logits {logits.shape} but targets {targets.shape}: the first two axes must agree."
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}: give a share from 0 to below 1.")
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits, axis=-1), axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    return losses if mask is None else jnp.where(mask, losses, 0.0)
