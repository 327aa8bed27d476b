"""GPT-2: the causal sibling of BERT, with hidden states, logits and an incremental cache."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.transformer import TransformerLayer, causal_mask


class Gpt(nn.Module):
    """A causal Transformer, normalised before each part and behind the last.

    The defaults are GPT-2's, smallest size.

    Attributes:
        vocab_size: Number of tokens.
        width: Size of token vectors and hidden states.
        heads: Attention heads.
        hidden: Size of the feed-forward networks' middle.
        layers: Layers.
        max_length: Longest sequence.
        activation: A name in `jaxembed.nn.ACTIVATIONS`; "gelu-tanh" is GPT-2's.
        dropout: Probability of dropping a vector's entry, in and between the layers.
        attention_dropout: Probability of dropping an attention weight.
        epsilon: Added to the variance in layer normalisation.
        dtype: What layers compute in, "float32" or "bfloat16"; None for that of the parameters.

    Reference: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners",
    section 2.3.
    """

    vocab_size: int
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    layers: int = 12
    max_length: int = 1024
    activation: str = "gelu-tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    epsilon: float = 1e-5
    dtype: str | None = None

    def setup(self):
        """The parts by name."""
        spread = {"embedding_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        self.words = nn.Embed(self.vocab_size, self.width, **spread)
        self.positions = nn.Embed(self.max_length, self.width, **spread)
        self.stack = [
            TransformerLayer(
                width=self.width,
                heads=self.heads,
                hidden=self.hidden,
                activation=self.activation,
                norm="pre",
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                epsilon=self.epsilon,
                dtype=self.dtype,
            )
            for _ in range(self.layers)
        ]
        self.final_norm = LayerNorm(self.epsilon, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch length vocab"]:
        """Logits of the token behind each one.

        Args:
            ids: Token ids, padded behind; what the padding holds does not matter.
            mask: True at real tokens; None for all. No real token sees padding behind it, so it
                changes nothing but states of the padding.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            Logits.

        Raises:
            ValueError: If the sequences are longer than `max_length`.
        """
        return self.predict_words(self.hidden_states(ids, mask, deterministic=deterministic)[-1])

    def hidden_states(
        self,
        ids: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"] | Bool[Array, "batch length length"] | None = None,
        *,
        positions: Int[Array, "batch length"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch length width"], ...]:
        """The states of the embedding layer and of every layer, the last one normalised.

        Args:
            ids: As in a call.
            mask: As in a call; or True where a token (first axis of length) may attend to another
                that is not behind it, which keeps several sequences in one row apart.
            positions: Place of each token in its sequence; None where a row is one sequence.
            deterministic: As in a call.

        Returns:
            layers + 1 arrays.

        Raises:
            ValueError: If the rows are longer than `max_length` and no positions are given.
        """
        length = ids.shape[1]
        if positions is None:
            self._check_length(length)
            positions = jnp.arange(length)[None]
        allowed = causal_mask(length)
        if mask is not None:
            allowed = allowed & (mask[:, None] if mask.ndim == 2 else mask)
        x = self._embed(ids, positions, deterministic)
        states = [x]
        for layer in self.stack:
            x = layer(x, allowed, deterministic=deterministic)
            states.append(x)
        states[-1] = self.final_norm(states[-1])
        return tuple(states)

    def predict_words(self, states: Float[Array, "*axes width"]) -> Float[Array, "*axes vocab"]:
        """Logits for the next word, of last states; the output table is that of the tokens."""
        return self.words.attend(states)

    def start_cache(self, batch: int, max_len: int) -> PyTree:
        """The state before the first token, for the decoders of `jaxembed.decoding`.

        Args:
            batch: Rows.
            max_len: Most tokens to be read, at most `max_length`.

        Returns:
            Arrays that lead with the batch.

        Raises:
            ValueError: If `max_len` is longer than `max_length`.
        """
        self._check_length(max_len)
        return self._start(batch, max_len)

    def _start(self, batch: int, room: int) -> PyTree:
        """A cache of `room` slots. Each step fills one, the same of all rows."""
        dtype = jnp.dtype(self.dtype or jnp.float32)
        return {
            "slot": jnp.zeros(batch, jnp.int32),
            "position": jnp.zeros(batch, jnp.int32),
            "is_seen": jnp.zeros((batch, room), bool),
            "layers": tuple(layer.start_cache(batch, room, dtype) for layer in self.stack),
            "first": jnp.zeros(batch, jnp.int32),
            "is_first": jnp.zeros(batch, bool),
        }

    def read_prompt(
        self, ids: Int[Array, "batch length"], lengths: Int[Array, "batch"], *, max_len: int
    ) -> PyTree:
        """The state behind a prompt, so that a decoder continues it.

        The last token of the prompt is kept for the first step, which then ignores the decoder's
        `bos_id`: pass any.

        Args:
            ids: Token ids, padded behind.
            lengths: Real tokens of each, 1 or more.
            max_len: Most tokens of the prompt and what follows it, at most `max_length`.

        Returns:
            Arrays that lead with the batch.

        Raises:
            ValueError: If `max_len` is longer than `max_length` or shorter than the prompt.
        """
        batch, length = ids.shape
        if length > max_len:
            raise ValueError(f"A prompt of {length} tokens has no room in max_len {max_len}.")
        self._check_length(max_len)
        cache = self._start(batch, length + max_len)
        x = self._embed(ids, jnp.arange(length)[None], True)
        layers = []
        for layer, kept in zip(self.stack, cache["layers"], strict=True):
            x, kept = layer.prefill(x, kept, causal_mask(length))
            layers.append(kept)
        last = jnp.maximum(lengths.astype(jnp.int32) - 1, 0)
        return {
            "slot": jnp.full(batch, length, jnp.int32),
            "position": last,
            # The last token is read again, and padding never.
            "is_seen": jnp.arange(length + max_len)[None] < last[:, None],
            "layers": tuple(layers),
            "first": jnp.take_along_axis(ids, last[:, None], axis=1)[:, 0].astype(jnp.int32),
            "is_first": jnp.ones(batch, bool),
        }

    def decode_step(
        self, tokens: Int[Array, "rows"], cache: PyTree
    ) -> tuple[Float[Array, "rows vocab"], PyTree]:
        """One step for the decoders of `jaxembed.decoding`.

        Args:
            tokens: The last token of each row.
            cache: Of `start_cache`, `read_prompt` or the step before.

        Returns:
            Logits of the next token, and the cache with this step in it.
        """
        tokens = jnp.where(cache["is_first"], cache["first"], tokens)
        slot = cache["slot"][0]
        seen = jnp.ones((len(tokens), 1), bool)
        is_seen = lax.dynamic_update_slice(cache["is_seen"], seen, (jnp.zeros_like(slot), slot))
        x = self._embed(tokens, cache["position"], True)[:, None]
        layers = []
        for layer, kept in zip(self.stack, cache["layers"], strict=True):
            x, kept = layer.step(x, kept, slot, is_seen[:, None])
            layers.append(kept)
        return self.predict_words(self.final_norm(x[:, 0])), {
            "slot": cache["slot"] + 1,
            "position": cache["position"] + 1,
            "is_seen": is_seen,
            "layers": tuple(layers),
            "first": cache["first"],
            "is_first": jnp.zeros_like(cache["is_first"]),
        }

    def _embed(self, ids, places, deterministic):
        return self.drop(self.words(ids) + self.positions(places), deterministic=deterministic)

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"{length} tokens, but the model's max_length is {self.max_length}: cut them."
            )
