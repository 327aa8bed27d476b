"""Skip-gram and CBOW as Flax modules: the differentiable definition of what is trained."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxembed.losses import full_softmax, hierarchical_softmax, negative_sampling
from jaxembed.models.word2vec.sampling import HuffmanTree

Objective = Literal["negative-sampling", "hierarchical-softmax", "softmax"]


def uniform_init(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Uniform in [-0.5 / dim, 0.5 / dim), as word2vec.c starts its input vectors."""
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5) / shape[1]


class _Word2Vec(nn.Module):
    """The two tables, and the loss of predicting target words from input vectors."""

    vocab_size: int
    dim: int = 100
    objective: Objective = "negative-sampling"

    def setup(self) -> None:
        if self.objective not in get_args(Objective):
            raise ValueError(f"objective {self.objective!r}; wanted one of {get_args(Objective)}.")
        # The Huffman tree has one inner node less than it has words.
        rows = self.vocab_size - (self.objective == "hierarchical-softmax")
        self.input = self.param("input", uniform_init, (self.vocab_size, self.dim))
        self.output = self.param("output", nn.initializers.zeros, (rows, self.dim))

    def embed(self, words: Int[Array, "..."]) -> Float[Array, "... dim"]:
        """Input vectors of word ids: the embeddings."""
        return self.input[words]

    def _loss(
        self,
        inputs: Float[Array, "batch dim"],
        targets: Int[Array, "batch"],
        negatives: Int[Array, "batch negatives"] | None,
        negative_weight: float,
        tree: HuffmanTree | None,
    ) -> Float[Array, "batch"]:
        if self.objective == "negative-sampling":
            if negatives is None:
                raise ValueError("objective 'negative-sampling' needs negatives, [batch, k] ids.")
            return negative_sampling(
                inputs,
                self.output[targets],
                self.output[negatives],
                negative_weight=negative_weight,
            )
        if self.objective == "hierarchical-softmax":
            if tree is None:
                raise ValueError(
                    "objective 'hierarchical-softmax' needs tree=huffman_tree(counts)."
                )
            nodes, turns, mask = (jnp.asarray(rows)[targets] for rows in tree.padded())
            return hierarchical_softmax(inputs, self.output[nodes], turns, mask=mask)
        return full_softmax(inputs, self.output, targets)


class SkipGram(_Word2Vec):
    """Predicts each word of a window from the word in its centre.

    Attributes:
        vocab_size: Number of words.
        dim: Length of a vector.
        objective: How a prediction is scored.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1301.3781, section 3.2.
    """

    def __call__(
        self,
        centres: Int[Array, "batch"],
        contexts: Int[Array, "batch"],
        negatives: Int[Array, "batch negatives"] | None = None,
        *,
        negative_weight: float = 1.0,
        tree: HuffmanTree | None = None,
    ) -> Float[Array, "batch"]:
        """Loss of each (centre, context) pair.

        Args:
            centres: Word ids whose input vectors predict.
            contexts: Word ids to be predicted.
            negatives: Sampled word ids, for negative sampling.
            negative_weight: Factor on the negatives' sum, see `losses.negative_sampling`.
            tree: The vocabulary's tree, for hierarchical softmax.

        Returns:
            Loss in nats for each pair. Not averaged.

        Raises:
            ValueError: If what the objective needs is not given.
        """
        return self._loss(self.input[centres], contexts, negatives, negative_weight, tree)


class CBOW(_Word2Vec):
    """Predicts the word in the centre from the mean of its window.

    The gradient with respect to each context vector is that of the SUM of the contexts, not of
    their mean: word2vec.c gives every context word the whole error, and learning rates in use
    count on it. The loss's value is the mean's.

    Attributes:
        vocab_size: Number of words.
        dim: Length of a vector.
        objective: How a prediction is scored.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1301.3781, section 3.1.
    """

    def __call__(
        self,
        contexts: Int[Array, "batch window"],
        mask: Bool[Array, "batch window"],
        centres: Int[Array, "batch"],
        negatives: Int[Array, "batch negatives"] | None = None,
        *,
        negative_weight: float = 1.0,
        tree: HuffmanTree | None = None,
    ) -> Float[Array, "batch"]:
        """Loss of each centre given its window.

        Args:
            contexts: Word ids of the windows.
            mask: False marks padding in `contexts`; a row must have one True.
            centres: Word ids to be predicted.
            negatives: Sampled word ids, for negative sampling.
            negative_weight: Factor on the negatives' sum, see `losses.negative_sampling`.
            tree: The vocabulary's tree, for hierarchical softmax.

        Returns:
            Loss in nats for each centre. Not averaged.

        Raises:
            ValueError: If what the objective needs is not given.
        """
        total = jnp.sum(jnp.where(mask[..., None], self.input[contexts], 0.0), axis=1)
        mean = total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
        inputs = total + jax.lax.stop_gradient(mean - total)
        return self._loss(inputs, centres, negatives, negative_weight, tree)
