"""Losses of word2vec: one (input, target) pair at a time, unreduced, in nats."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def negative_sampling(
    inputs: Float[Array, "batch dim"],
    positives: Float[Array, "batch dim"],
    negatives: Float[Array, "batch negatives dim"],
    *,
    negative_weight: float = 1.0,
    mask: Bool[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Logistic loss of one positive and several sampled negatives for each pair.

    The paper's objective has k negatives a pair. Where S negatives are shared by many pairs,
    `negative_weight = k / S` gives the same expected loss and gradient.

    Args:
        inputs: Input vectors.
        positives: Output vectors of the words to be predicted.
        negatives: Output vectors of the sampled words. A sample equal to the positive counts as any
            other, as in the paper (word2vec.c skips it).
        negative_weight: Factor on the sum over negatives.
        mask: False marks padding.

    Returns:
        Loss in nats for each pair, 0 for padding. Not averaged.

    Raises:
        ValueError: If the batch sizes differ.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1310.4546, eq. 4.
    """
    _check_batch(inputs, positives=positives, negatives=negatives)
    positive_logits = jnp.sum(inputs * positives, axis=-1)
    negative_logits = jnp.einsum("bd,bnd->bn", inputs, negatives)
    losses = jax.nn.softplus(-positive_logits) + negative_weight * jnp.sum(
        jax.nn.softplus(negative_logits), axis=-1
    )
    return losses if mask is None else jnp.where(mask, losses, 0.0)


def hierarchical_softmax(
    inputs: Float[Array, "batch dim"],
    nodes: Float[Array, "batch depth dim"],
    turns: Bool[Array, "batch depth"],
    *,
    mask: Bool[Array, "batch depth"] | None = None,
) -> Float[Array, "batch"]:
    """Negative log-probability of a leaf as a product of binary decisions down a tree.

    Args:
        inputs: Input vectors.
        nodes: Vectors of the inner nodes on the path from the root to the target's leaf.
        turns: True where the path takes the branch whose probability is sigmoid(-logit), which is
            the word2vec.c code bit 1; False where it takes the other.
        mask: False marks padding behind the end of a path; a row of padding has loss 0.

    Returns:
        Loss in nats for each pair. Not averaged. exp(-loss) sums to 1 over the leaves of a tree.

    Raises:
        ValueError: If the batch sizes differ.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1310.4546, eq. 3.
    """
    _check_batch(inputs, nodes=nodes, turns=turns)
    logits = jnp.einsum("bd,bnd->bn", inputs, nodes)
    losses = jax.nn.softplus(jnp.where(turns, logits, -logits))
    if mask is not None:
        losses = jnp.where(mask, losses, 0.0)
    return jnp.sum(losses, axis=-1)


def full_softmax(
    inputs: Float[Array, "batch dim"],
    outputs: Float[Array, "vocab dim"],
    targets: Int[Array, "batch"],
    *,
    mask: Bool[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Cross-entropy of the target against the whole vocabulary.

    Args:
        inputs: Input vectors.
        outputs: Output vectors of all words.
        targets: Word ids in [0, vocab).
        mask: False marks padding.

    Returns:
        Loss in nats for each pair, 0 for padding. Not averaged.

    Raises:
        ValueError: If the batch sizes differ.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1310.4546, eq. 2.
    """
    _check_batch(inputs, targets=targets)
    losses = optax.softmax_cross_entropy_with_integer_labels(inputs @ outputs.T, targets)
    return losses if mask is None else jnp.where(mask, losses, 0.0)


def _check_batch(inputs: Array, **others: Array) -> None:
    for name, other in others.items():
        if other.shape[0] != inputs.shape[0]:
            raise ValueError(
                f"{inputs.shape[0]} inputs but {other.shape[0]} {name}: rows must be pairs."
            )
