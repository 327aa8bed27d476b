"""A Transformer encoder-decoder."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxembed.decoding import Shared
from jaxembed.models.seq2seq.mask import real_tokens
from jaxembed.nn.attention import KeysValues
from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.transformer import TransformerLayer, causal_mask, sinusoidal_positions


class TransformerSeq2Seq(nn.Module):
    """Transformer encoder and decoder.

    Attributes:
        source_vocab: Number of source tokens.
        target_vocab: Number of target tokens.
        width: Size of the token vectors and of all layers' inputs and outputs.
        heads: Attention heads.
        hidden: Size of the feed-forward networks' middle.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        activation: A name in `jaxembed.nn.ACTIVATIONS`.
        norm: "pre" or "post", see `TransformerLayer`; "pre" also normalises what comes out.
        positions: "sinusoidal" or "learned".
        max_length: Longest source and target, in tokens.
        dropout: Probability of dropping a vector's entry, in and between the layers.
        attention_dropout: Probability of dropping an attention weight.
        hidden_dropout: Probability of dropping a middle activation.
        shared: Use the target's token vectors for the source; the vocabularies are then the same.
        tied: Use the target's token vectors as the output table.
        scaled: Multiply token vectors by the square root of the width.
        embedding_norm: Normalise the sum of token and position vectors, as BART does.
        epsilon: Added to the variance in layer normalisation.

    Reference: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762.
    """

    source_vocab: int
    target_vocab: int
    width: int = 256
    heads: int = 4
    hidden: int = 1024
    encoder_layers: int = 3
    decoder_layers: int = 3
    activation: str = "relu"
    norm: str = "pre"
    positions: str = "sinusoidal"
    max_length: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    shared: bool = False
    tied: bool = True
    scaled: bool = True
    embedding_norm: bool = False
    epsilon: float = 1e-5

    def setup(self):
        """The parts by name."""
        if self.positions not in ("sinusoidal", "learned"):
            raise ValueError(f"positions is {self.positions!r}: choose sinusoidal or learned.")
        if self.shared and self.source_vocab != self.target_vocab:
            raise ValueError(
                f"shared token vectors need one vocabulary, but there are {self.source_vocab} "
                f"source and {self.target_vocab} target tokens."
            )
        spread = nn.initializers.normal(self.width**-0.5)
        self.target_embedding = nn.Embed(self.target_vocab, self.width, embedding_init=spread)
        if not self.shared:
            self.source_embedding = nn.Embed(self.source_vocab, self.width, embedding_init=spread)
        if self.positions == "learned":
            shape = (self.max_length, self.width)
            self.source_positions = self.param("source_positions", spread, shape)
            self.target_positions = self.param("target_positions", spread, shape)
        else:
            table = sinusoidal_positions(self.max_length, self.width)
            self.source_positions = self.target_positions = table
        layer = {
            "width": self.width,
            "heads": self.heads,
            "hidden": self.hidden,
            "activation": self.activation,
            "norm": self.norm,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "hidden_dropout": self.hidden_dropout,
            "epsilon": self.epsilon,
        }
        self.encoder = [TransformerLayer(**layer) for _ in range(self.encoder_layers)]
        self.decoder = [TransformerLayer(**layer, crosses=True) for _ in range(self.decoder_layers)]
        if self.embedding_norm:
            self.source_norm = LayerNorm(self.epsilon)
            self.target_norm = LayerNorm(self.epsilon)
        if self.norm == "pre":
            self.encoder_norm = LayerNorm(self.epsilon)
            self.decoder_norm = LayerNorm(self.epsilon)
        zeros = nn.initializers.zeros
        if self.tied:
            self.output_bias = self.param("output_bias", zeros, (self.target_vocab,))
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
            max_len: Most steps the cache has room for; None for `max_length`.
            beam_size: Rows an item that `decode_step` will be given, for which the cache then is
                `Shared`; None for a cache that any decoder can repeat and reorder.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            The decoder's empty cache, and the context (each decoder layer's keys and values of
            the source, and which are real); their leaves lead with the batch.

        Raises:
            ValueError: If the source or `max_len` is longer than `max_length`.
        """
        max_len = self.max_length if max_len is None else max_len
        self._check_length("max_len", max_len)
        mask, encoded = self._encode(source, source_lengths, deterministic)
        batch = source.shape[0]
        room = max_len * (beam_size or 1)
        layers = tuple(layer.start_cache(batch, room, encoded.dtype) for layer in self.decoder)
        cache = {
            "step": jnp.zeros(batch, jnp.int32),
            "lineage": jnp.full((batch, max_len), -1, jnp.int32),
            "layers": Shared(layers) if beam_size else layers,
        }
        layers = tuple(layer.remember(encoded) for layer in self.decoder)
        return cache, {"layers": layers, "mask": mask}

    def decode_step(
        self, tokens: Int[Array, "rows"], cache: PyTree, context: PyTree
    ) -> tuple[Float[Array, "rows vocab"], PyTree]:
        """One step for the decoders of `jaxembed.decoding`.

        Args:
            tokens: The last token of each row; all rows are at the same step.
            cache: Keys and values of each item's targets so far, and each row's way through them.
            context: As `encode` returned it, each item shared by rows / batch rows in turn.

        Returns:
            Logits of the next token, and the cache with this step in it.

        Raises:
            ValueError: If an item has other rows than the `beam_size` of `encode`.
        """
        rows, lineage, layers = len(tokens), cache["lineage"], cache["layers"]
        is_shared = isinstance(layers, Shared)
        groups = len(context["mask"]) if is_shared else rows
        (layers,) = layers if is_shared else (layers,)
        _check_room(rows // groups, layers, lineage.shape[1])
        # Shared keys and values do not move when the beam is reordered: they stay where a row
        # wrote them, and each row keeps which of its mates wrote each step of its beginning.
        step, mates = cache["step"][0], jnp.arange(rows // groups, dtype=jnp.int32)
        lineage = lax.dynamic_update_slice(
            lineage, jnp.tile(mates, groups)[:, None], (jnp.zeros_like(step), step)
        )
        is_own = (lineage[:, :, None] == mates[None, None]).reshape(groups, len(mates), -1)

        positions = jnp.asarray(self.target_positions)[step][None]
        x = self._embed_target(tokens, positions, True).reshape(groups, len(mates), -1)
        kept = []
        for layer, before, memory in zip(self.decoder, layers, context["layers"], strict=True):
            x, after = layer.step(x, before, step * len(mates), is_own, memory, context["mask"])
            kept.append(after)
        kept = Shared(tuple(kept)) if is_shared else tuple(kept)
        logits = self._logits(x.reshape(rows, -1))
        return logits, {"step": cache["step"] + 1, "lineage": lineage, "layers": kept}

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

        Raises:
            ValueError: If a side is longer than `max_length`.
        """
        steps = target.shape[1]
        self._check_length("target", steps)
        mask, encoded = self._encode(source, source_lengths, deterministic)
        positions = jnp.asarray(self.target_positions)[None, :steps]
        x = self._embed_target(target, positions, deterministic)
        for layer in self.decoder:
            x = layer(
                x,
                causal_mask(steps),
                layer.remember(encoded),
                mask[:, None],
                deterministic=deterministic,
            )
        return self._logits(x)

    def _encode(self, source, source_lengths, deterministic):
        length = source.shape[1]
        self._check_length("source", length)
        mask = real_tokens(source, source_lengths)
        table = self.target_embedding if self.shared else self.source_embedding
        x = self._embed(table, jnp.where(mask, source, 0))
        x = x + jnp.asarray(self.source_positions)[None, :length].astype(x.dtype)
        if self.embedding_norm:
            x = self.source_norm(x)
        x = self.drop(x, deterministic=deterministic)
        for layer in self.encoder:
            x = layer(x, mask[:, None], deterministic=deterministic)
        return mask, self.encoder_norm(x) if self.norm == "pre" else x

    def _embed(self, table: nn.Embed, ids: Array) -> Array:
        return table(ids) * (self.width**0.5 if self.scaled else 1.0)

    def _embed_target(self, tokens, positions, deterministic):
        x = self._embed(self.target_embedding, tokens)
        x = x + positions.astype(x.dtype)
        if self.embedding_norm:
            x = self.target_norm(x)
        return self.drop(x, deterministic=deterministic)

    def _logits(self, x):
        if self.norm == "pre":
            x = self.decoder_norm(x)
        if not self.tied:
            return self.output(x)
        bias = self.output_bias.reshape([1] * (x.ndim - 1) + [-1])
        return self.target_embedding.attend(x) + bias

    def _check_length(self, name: str, length: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"{name} has {length} tokens, but the model's max_length is {self.max_length}: "
                "cut it, or train with a greater one."
            )


def _check_room(beam: int, layers: tuple[KeysValues, ...], steps: int) -> None:
    for layer in layers:
        if layer.values.shape[2] != beam * steps:
            raise ValueError(
                f"Each item has {beam} rows, but its cache was made for "
                f"{layer.values.shape[2] // steps}: call encode with beam_size={beam}, or None."
            )
