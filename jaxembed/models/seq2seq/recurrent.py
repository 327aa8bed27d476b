"""A recurrent encoder-decoder."""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, PyTree

from jaxembed.models.seq2seq.mask import real_tokens
from jaxembed.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    attention_weights,
)
from jaxembed.nn.dense import Dense
from jaxembed.nn.recurrent import RecurrentStack

Context = Literal["last", "mean", "additive", "dot", "general"]


class Seq2Seq(nn.Module):
    """Recurrent encoder and decoder.

    The decoder starts from the encoder's final state, reads the context beside the last token at
    every step, and puts out tanh(W [state; context; token]) times the output table.

    Attributes:
        source_vocab: Number of source tokens.
        target_vocab: Number of target tokens.
        embed_dim: Size of the token vectors.
        width: Size of the state of each layer and direction.
        layers: Layers of the encoder, and of the decoder.
        cell: "gru" or "lstm".
        bidirectional: Whether the encoder reads both ways; its final state then goes through a
            dense layer to the decoder.
        context: What the decoder sees of the source: "last", the final state of the last layer;
            "mean" of its outputs; or attention to them by the decoder's last state: "additive",
            "dot" (outputs and state must be of one size, so not bidirectional) or "general".
        dropout: Probability of dropping a token vector's entry, an output between layers, or an
            entry before the output table.
        tied: Use the target's token vectors as the output table.

    Reference: Cho et al., 2014, https://arxiv.org/abs/1406.1078 (context at every step); Bahdanau
    et al., 2015, https://arxiv.org/abs/1409.0473; Luong et al., 2015,
    https://arxiv.org/abs/1508.04025.
    """

    source_vocab: int
    target_vocab: int
    embed_dim: int = 256
    width: int = 512
    layers: int = 1
    cell: str = "gru"
    bidirectional: bool = True
    context: str = "additive"
    dropout: float = 0.0
    tied: bool = False

    def setup(self):
        """The parts by name."""
        if self.context not in get_args(Context):
            raise ValueError(
                f"Unknown context {self.context!r}: choose one of {', '.join(get_args(Context))}."
            )
        if self.context == "dot" and self.bidirectional:
            raise ValueError(
                "context is dot, but a bidirectional encoder's outputs are twice as wide as the "
                "decoder's state: choose general, or bidirectional=False."
            )
        self.source_embedding = nn.Embed(self.source_vocab, self.embed_dim)
        self.target_embedding = nn.Embed(self.target_vocab, self.embed_dim)
        stack = (self.width, self.layers, self.cell)
        self.encoder = RecurrentStack(*stack, self.bidirectional, self.dropout)
        self.decoder = RecurrentStack(*stack, dropout=self.dropout)
        if self.bidirectional:
            parts = self.layers * (2 if self.cell == "lstm" else 1)
            self.bridges = [Dense(self.width) for _ in range(parts)]
        if self.context == "additive":
            self.attention = AdditiveAttention(self.width)
        elif self.context == "dot":
            self.attention = DotAttention()
        elif self.context == "general":
            self.attention = GeneralAttention(self.width)
        self.readout = Dense(self.embed_dim)
        if self.tied:
            self.output_bias = self.param("output_bias", nn.initializers.zeros, self.target_vocab)
        else:
            self.output = Dense(self.target_vocab)
        self.drop = nn.Dropout(self.dropout)

    def encode(
        self,
        source: Int[Array, "batch length"],
        source_lengths: Int[Array, "batch"],
        *,
        max_len: int | None = None,
        beam_size: int | None = None,
        deterministic: bool = True,
    ) -> tuple[PyTree, PyTree]:
        """Reads the source.

        Args:
            source: Token ids, padded behind; what the padding holds does not matter.
            source_lengths: Real tokens of each.
            max_len: Not used: a recurrent state needs no room for the target.
            beam_size: Not used.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            The decoder's state before BOS, and the context, whose leaves lead with the batch.
        """
        del max_len, beam_size
        mask = real_tokens(source, source_lengths)
        embedded = self.source_embedding(jnp.where(mask, source, 0))
        embedded = self.drop(embedded, deterministic=deterministic)
        outputs, states = self.encoder(embedded, source_lengths, deterministic=deterministic)
        final = states[-1][0]
        if self.bidirectional:
            bridges = iter(self.bridges)
            states = tuple(
                tuple(jnp.tanh(next(bridges)(part)) for part in state) for state in states
            )
        if self.context == "last":
            context = {"summary": final}
        elif self.context == "mean":
            total = jnp.sum(outputs, axis=1)  # padded outputs are 0
            count = jnp.maximum(source_lengths, 1).astype(total.dtype)
            context = {"summary": total / count[:, None]}
        else:
            context = {"memory": outputs, "keys": self.attention.keys(outputs), "mask": mask}
        return {"states": states}, context

    def decode_step(
        self, tokens: Int[Array, "rows"], cache: PyTree, context: PyTree
    ) -> tuple[Float[Array, "rows vocab"], PyTree]:
        """One step for the decoders of `jaxembed.decoding`.

        Args:
            tokens: The last token of each row.
            cache: State of each row.
            context: As `encode` returned it, each item shared by rows / batch rows in turn.

        Returns:
            Logits of the next token, and the new state.
        """
        embedded = self.target_embedding(tokens)
        features, states, _ = self._advance(embedded, cache["states"], context)
        return self._logits(features), {"states": states}

    def __call__(
        self,
        source: Int[Array, "batch length"],
        source_lengths: Int[Array, "batch"],
        target: Int[Array, "batch steps"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch steps vocab"]:
        """Logits by teacher forcing.

        Args:
            source: Token ids, padded behind.
            source_lengths: Real tokens of each.
            target: What the decoder reads: BOS and the target without its last token.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            Logits of the token behind each one read.
        """
        features, _ = self._force(source, source_lengths, target, deterministic)
        return self._logits(features, deterministic)

    def align(
        self,
        source: Int[Array, "batch length"],
        source_lengths: Int[Array, "batch"],
        target: Int[Array, "batch steps"],
    ) -> Float32[Array, "batch steps length"]:
        """Attention weights by teacher forcing; arguments as in a call.

        Raises:
            ValueError: If the context is not an attention.
        """
        if self.context in ("last", "mean"):
            raise ValueError(f"context {self.context!r} has no weights: train one with attention.")
        return self._force(source, source_lengths, target, True)[1]

    def _force(self, source, source_lengths, target, deterministic):
        cache, context = self.encode(source, source_lengths, deterministic=deterministic)
        embedded = self.drop(self.target_embedding(target), deterministic=deterministic)

        def step(model, states, embedded):
            features, states, weights = model._advance(embedded, states, context, deterministic)
            return states, (features, weights)

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        _, (features, weights) = scan(self, cache["states"], embedded)
        return features, weights

    def _advance(self, embedded, states, context, deterministic=True):
        """One step, up to what the logits are made of."""
        rows = embedded.shape[0]
        weights = None
        if "summary" in context:
            summary = context["summary"]
            seen = jnp.repeat(summary, rows // summary.shape[0], axis=0)
        else:
            memory = context["memory"]
            queries = states[-1][0].reshape(memory.shape[0], -1, self.width)
            scores = self.attention(queries, context["keys"])
            weights = attention_weights(scores, context["mask"][:, None])
            seen = jnp.einsum("bqt,btd->bqd", weights.astype(memory.dtype), memory)
            seen, weights = seen.reshape(rows, -1), weights.reshape(rows, -1)
        inputs = jnp.concatenate([embedded, seen], axis=-1)
        output, states = self.decoder.step(inputs, states, deterministic=deterministic)
        return jnp.concatenate([output, seen, embedded], axis=-1), states, weights

    def _logits(self, features, deterministic=True):
        hidden = self.drop(jnp.tanh(self.readout(features)), deterministic=deterministic)
        if self.tied:
            bias = self.output_bias.reshape([1] * (hidden.ndim - 1) + [-1])
            return self.target_embedding.attend(hidden) + bias
        return self.output(hidden)
