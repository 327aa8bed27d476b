"""BERT and its relatives: a Transformer encoder of text with all its hidden states and heads."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxembed.nn.activations import ACTIVATIONS
from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.pooling import Pooling, pool_tokens
from jaxembed.nn.transformer import TransformerLayer


class BertOutput(NamedTuple):
    """What a model says of a batch; a head that it has not gives None.

    Attributes:
        hidden_states: Those of the embedding layer, then of every layer.
        pooled: Of the first token, through the pooler.
        word_logits: For the word at each place.
        next_logits: For "the second sentence follows the first" (0) and "it does not" (1).
    """

    hidden_states: tuple[Float[Array, "batch length width"], ...]
    pooled: Float[Array, "batch width"] | None
    word_logits: Float[Array, "batch length vocab"] | None
    next_logits: Float[Array, "batch 2"] | None


class Bert(nn.Module):
    """A bidirectional Transformer encoder, normalised behind each part.

    The defaults are BERT's, base size. RoBERTa has segments=1 and position_start=2, DistilBERT
    segments=0 and no pooler.

    Attributes:
        vocab_size: Number of tokens.
        width: Size of token vectors and hidden states.
        heads: Attention heads.
        hidden: Size of the feed-forward networks' middle.
        layers: Layers.
        max_length: Longest sequence, special tokens counted.
        segments: Kinds of segments; 0 for none.
        position_start: Row of the position table that the first token takes.
        activation: A name in `jaxembed.nn.ACTIVATIONS`; "gelu" is the exact one.
        dropout: Probability of dropping a vector's entry, in and between the layers.
        attention_dropout: Probability of dropping an attention weight.
        epsilon: Added to the variance in layer normalisation.
        pooler: Whether it has a pooler.
        word_head: Whether it predicts masked words, by the token vectors and a bias.
        next_head: Whether it predicts the next sentence; needs the pooler.
        dtype: What layers compute in, "float32" or "bfloat16"; None for that of the parameters.
            Parameters, softmax and normalisation are float32.

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805; Liu et al., 2019,
    https://arxiv.org/abs/1907.11692; Sanh et al., 2019, https://arxiv.org/abs/1910.01108.
    """

    vocab_size: int
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    layers: int = 12
    max_length: int = 512
    segments: int = 2
    position_start: int = 0
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    epsilon: float = 1e-12
    pooler: bool = True
    word_head: bool = False
    next_head: bool = False
    dtype: str | None = None

    def setup(self):
        """The parts by name."""
        if self.next_head and not self.pooler:
            raise ValueError("next_head reads the pooler: set pooler=True.")
        spread = {"embedding_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        self.words = nn.Embed(self.vocab_size, self.width, **spread)
        rows = self.position_start + self.max_length
        self.positions = nn.Embed(rows, self.width, **spread)
        if self.segments:
            self.segment_kinds = nn.Embed(self.segments, self.width, **spread)
        self.embedding_norm = LayerNorm(self.epsilon, self.dtype)
        self.stack = [
            TransformerLayer(
                width=self.width,
                heads=self.heads,
                hidden=self.hidden,
                activation=self.activation,
                norm="post",
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                epsilon=self.epsilon,
                dtype=self.dtype,
            )
            for _ in range(self.layers)
        ]
        if self.pooler:
            self.pooling = Dense(self.width, dtype=self.dtype)
        if self.word_head:
            self.word_transform = Dense(self.width, dtype=self.dtype)
            self.word_norm = LayerNorm(self.epsilon, self.dtype)
            self.word_bias = self.param("word_bias", nn.initializers.zeros, (self.vocab_size,))
        if self.next_head:
            self.next_sentence = Dense(2, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        deterministic: bool = True,
    ) -> BertOutput:
        """Everything; under `jit` what is not used is not computed.

        Args:
            ids: Token ids, padded behind; what the padding holds does not matter.
            mask: True at real tokens; None for all.
            segments: Number of each token's segment; None for 0.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            Hidden states and what the heads make of the last.

        Raises:
            ValueError: If the sequences are longer than `max_length`.
        """
        states = self.hidden_states(ids, mask, segments, deterministic=deterministic)
        pooled = self.pool(states[-1], deterministic=deterministic) if self.pooler else None
        return BertOutput(
            states,
            pooled,
            self.predict_words(states[-1]) if self.word_head else None,
            self.predict_next(pooled) if self.next_head else None,
        )

    def hidden_states(
        self,
        ids: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"] | Bool[Array, "batch length length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        positions: Int[Array, "batch length"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch length width"], ...]:
        """The states of the embedding layer and of every layer.

        Several sequences may lie in one row: `mask` then keeps them apart, and `positions` count
        from 0 in each.

        Args:
            ids: As in a call.
            mask: As in a call; or True where a token (first axis of length) may attend to another.
            segments: As in a call.
            positions: Place of each token in its sequence; None where a row is one sequence.
            deterministic: As in a call.

        Returns:
            layers + 1 arrays.

        Raises:
            ValueError: If the rows are longer than `max_length` and no positions are given.
        """
        length = ids.shape[1]
        if positions is None and length > self.max_length:
            raise ValueError(
                f"The sequences have {length} tokens, but the model's max_length is "
                f"{self.max_length}: cut them."
            )
        if segments is not None and self.segments < 2:
            raise ValueError(f"The model knows {self.segments} segments: pass segments=None.")
        places = jnp.arange(length)[None] if positions is None else positions
        x = self.words(ids) + self.positions(places + self.position_start)
        if self.segments:
            x = x + self.segment_kinds(jnp.zeros_like(ids) if segments is None else segments)
        x = self.drop(self.embedding_norm(x), deterministic=deterministic)
        states = [x]
        allowed = mask[:, None] if mask is not None and mask.ndim == 2 else mask
        for layer in self.stack:
            x = layer(x, allowed, deterministic=deterministic)
            states.append(x)
        return tuple(states)

    def pool(
        self, states: Float[Array, "batch length width"], *, deterministic: bool = True
    ) -> Float[Array, "batch width"]:
        """Of the first token's last state."""
        return self.drop(jnp.tanh(self.pooling(states[:, 0])), deterministic=deterministic)

    def predict_words(self, states: Float[Array, "*axes width"]) -> Float[Array, "*axes vocab"]:
        """Logits for the word at each place, of last states at all places or at chosen ones."""
        hidden = ACTIVATIONS[self.activation](self.word_transform(states))
        logits = self.words.attend(self.word_norm(hidden))
        bias = self.word_bias.astype(logits.dtype)
        return logits + bias.reshape([1] * (logits.ndim - 1) + [-1])

    def predict_next(self, pooled: Float[Array, "batch width"]) -> Float[Array, "batch 2"]:
        """Logits for "the second sentence follows the first" (0) and "it does not" (1)."""
        return self.next_sentence(pooled)


def without_heads(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of embeddings and layers, of a `Bert` or a `Gpt`: not of heads and pooler."""
    kept = ("words", "positions", "segment_kinds", "embedding_norm", "final_norm")
    return {
        name: part for name, part in params.items() if name in kept or name.startswith("stack_")
    }


class SentenceBert(nn.Module):
    """A `Bert` as a tower: one vector a text.

    Attributes:
        bert: The model, without its heads and its pooler.
        pool: How tokens become one vector, see `pool_tokens`.
        max_length: Longest text in tokens, specials counted.

    Reference: Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084, section 3.
    """

    bert: Bert
    pool: Pooling = "mean"
    max_length: int = 128

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return self.bert.vocab_size

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        lengths: Int[Array, "batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch width"]:
        """Encodes texts; arguments as of `TextTransformer`."""
        is_real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
        states = self.bert.hidden_states(ids, is_real, deterministic=deterministic)
        return pool_tokens(states[-1], is_real, how=self.pool)
