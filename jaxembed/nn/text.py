"""Text towers: a Transformer over tokens, and the mean of token vectors."""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.pooling import AttentionPooling, pool_tokens
from jaxembed.nn.transformer import TransformerLayer, causal_mask

TextPooling = Literal["last", "class", "mean", "attention"]


class TextTransformer(nn.Module):
    """Transformer over tokens, normalised before each part and behind the last.

    Attributes:
        vocab: Number of tokens; 0 until the data decide it.
        width: Size of the vectors.
        layers: Transformer layers.
        hidden: Size of the feed-forward networks' middle.
        heads: Attention heads.
        max_length: Longest text, in tokens.
        activation: A name in `ACTIVATIONS`.
        causal: A token sees those before it alone, as in CLIP.
        pool: What stands for the text: its "last" or first ("class") token, the "mean" over tokens,
            or an "attention" head over them.
        outputs: Size of a dense map behind it, as in SigLIP; 0 for none.
        dropout: Probability of dropping a part's output.
        epsilon: Added to the variance in layer normalisation.

    Reference: Radford et al., 2021, https://arxiv.org/abs/2103.00020, section 2.4.
    """

    vocab: int = 0
    width: int = 512
    layers: int = 12
    hidden: int = 2048
    heads: int = 8
    max_length: int = 77
    activation: str = "gelu"
    causal: bool = False
    pool: TextPooling = "last"
    outputs: int = 0
    dropout: float = 0.0
    epsilon: float = 1e-5

    def setup(self):
        """The parts by name."""
        if self.vocab < 1:
            raise ValueError(f"vocab is {self.vocab}: give the number of tokens.")
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}: give 1 or more, or take a BagOfWords.")
        if self.pool not in get_args(TextPooling):
            choices = ", ".join(get_args(TextPooling))
            raise ValueError(f"pool is {self.pool!r}: choose one of {choices}.")
        spread = nn.initializers.normal(0.02)
        self.embedding = nn.Embed(self.vocab, self.width, embedding_init=spread)
        shape = (self.max_length, self.width)
        self.positions = self.param("positions", nn.initializers.normal(0.01), shape)
        self.blocks = [
            TransformerLayer(
                width=self.width,
                heads=self.heads,
                hidden=self.hidden,
                activation=self.activation,
                norm="pre",
                dropout=self.dropout,
                epsilon=self.epsilon,
            )
            for _ in range(self.layers)
        ]
        self.norm = LayerNorm(self.epsilon)
        if self.pool == "attention":
            self.head = AttentionPooling(
                self.width, self.heads, self.hidden, self.activation, self.epsilon
            )
        if self.outputs:
            self.output = Dense(self.outputs)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        lengths: Int[Array, "batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch outputs"]:
        """Encodes texts.

        Args:
            ids: Token ids, padded behind; what the padding holds does not matter.
            lengths: Real tokens of each, 1 or more.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            One vector a text.

        Raises:
            ValueError: If the texts are longer than `max_length`.
        """
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"texts of {length} tokens, but the model's max_length is {self.max_length}: cut "
                "them."
            )
        is_real = jnp.arange(length)[None] < lengths[:, None]
        x = self.embedding(jnp.where(is_real, ids, 0))
        x = self.drop(
            x + self.positions[None, :length].astype(x.dtype), deterministic=deterministic
        )
        # What stands behind a token cannot reach it, so padding needs no mask of its own.
        mask = causal_mask(length) if self.causal else is_real[:, None]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, mask, deterministic=deterministic)
        if self.pool in ("last", "class"):
            places = lengths - 1 if self.pool == "last" else jnp.zeros_like(lengths)
            x = self.norm(last.at(x, places, mask, deterministic=deterministic))
        else:
            x = self.norm(last(x, mask, deterministic=deterministic))
            if self.pool == "mean":
                x = pool_tokens(x, is_real, how="mean")
            else:
                x = self.head(x, is_real)
        return self.output(x) if self.outputs else x


class BagOfWords(nn.Module):
    """The mean of token vectors: the simplest tower, blind to order.

    Attributes:
        vocab: Number of tokens; 0 until the data decide it.
        width: Size of the vectors.
        max_length: Longest text, in tokens.
    """

    vocab: int = 0
    width: int = 256
    max_length: int = 256

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch length"],
        lengths: Int[Array, "batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch dim"]:
        """Encodes texts; arguments as of `TextTransformer`."""
        del deterministic
        if self.vocab < 1:
            raise ValueError(f"vocab is {self.vocab}: give the number of tokens.")
        is_real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
        spread = nn.initializers.normal(self.width**-0.5)
        table = nn.Embed(self.vocab, self.width, embedding_init=spread, name="embedding")
        return pool_tokens(table(jnp.where(is_real, ids, 0)), is_real, how="mean")
