"""The Transformer block: encoder, decoder and causal model are made of it."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from jaxembed.nn.activations import ACTIVATIONS
from jaxembed.nn.attention import KeysValues, MultiHeadAttention, write_step
from jaxembed.nn.dense import Dense
from jaxembed.nn.normalization import LayerNorm


def sinusoidal_positions(length: int, width: int) -> Float32[np.ndarray, "length width"]:
    """Fixed position vectors: the sines in the first half, the cosines in the second.

    The paper interleaves them, which is the same up to the order of dimensions; this is the order
    of Marian and of Hugging Face.

    Args:
        length: Positions.
        width: Size of a vector, even.

    Returns:
        One vector a position.

    Raises:
        ValueError: If `width` is odd.

    Reference: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    if width % 2:
        raise ValueError(f"width is {width}: sines and cosines need an even one.")
    rates = 10000.0 ** (-2.0 * np.arange(width // 2) / width)
    angles = np.arange(length)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class TransformerLayer(nn.Module):
    """Self-attention, attention to a memory if it has one, and a feed-forward network.

    Attributes:
        width: Size of the inputs and outputs.
        heads: Attention heads.
        hidden: Size of the feed-forward network's middle.
        activation: A name in `ACTIVATIONS`; "gelu" is the exact one.
        norm: "pre" normalises what goes into each part, "post" the sum behind it.
        crosses: Whether it attends to a memory (a decoder's layer).
        dropout: Probability of dropping a part's output.
        attention_dropout: Probability of dropping an attention weight.
        hidden_dropout: Probability of dropping a middle activation.
        epsilon: Added to the variance in layer normalisation: 1e-5 in torch and GPT-2, 1e-12 in
            BERT.
        dtype: What dense layers compute in; None for that of inputs and parameters.

    Reference: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3; "pre": Xiong et
    al., 2020, https://arxiv.org/abs/2002.04745.
    """

    width: int
    heads: int
    hidden: int
    activation: str = "gelu"
    norm: str = "post"
    crosses: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: str | None = None

    def setup(self):
        """The parts, each with its normalisation."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"Unknown activation {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}."
            )
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm is {self.norm!r}: choose pre or post.")
        attention = (self.width, self.heads, self.attention_dropout, self.dtype)
        self.attention = MultiHeadAttention(*attention)
        self.attention_norm = LayerNorm(self.epsilon, self.dtype)
        if self.crosses:
            self.cross = MultiHeadAttention(*attention)
            self.cross_norm = LayerNorm(self.epsilon, self.dtype)
        self.widen = Dense(self.hidden, dtype=self.dtype)
        self.narrow = Dense(self.width, dtype=self.dtype)
        self.feed_norm = LayerNorm(self.epsilon, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.drop_hidden = nn.Dropout(self.hidden_dropout)

    def __call__(
        self,
        inputs: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch #length length"] | None = None,
        memory: KeysValues | None = None,
        memory_mask: Bool[Array, "#batch #length places"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch length width"]:
        """Runs over whole sequences.

        Args:
            inputs: Vectors of the sequence.
            mask: True where a row (first axis of length) may attend to a column; `causal_mask`
                for a causal model. None for all.
            memory: Keys and values of `remember`, for a layer that crosses.
            memory_mask: True where a place of the memory may be attended to.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            Vectors of the sequence.
        """

        def attend(x):
            projected = self.attention.project(x)
            return self.attention(x, projected, mask, deterministic=deterministic)

        outputs = self._add(inputs, self.attention_norm, attend, deterministic)
        return self._rest(outputs, memory, memory_mask, deterministic)

    def at(
        self,
        inputs: Float[Array, "batch length width"],
        places: Int[Array, "batch"],
        mask: Bool[Array, "#batch #length length"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch width"]:
        """What a call gives at one place of each sequence, without the cost of the others.

        For the last layer under a pooling that takes one token: all that is left to do for the
        others are their keys and values.

        Args:
            inputs: Vectors of the sequence.
            places: One a sequence.
            mask: As in a call.
            deterministic: As in a call.

        Returns:
            Their vectors.
        """

        def pick(x):
            return jnp.take_along_axis(x, places[:, None, None], axis=1)

        x = self.attention_norm(inputs) if self.norm == "pre" else inputs
        if mask is not None:
            mask = pick(jnp.broadcast_to(mask, (*inputs.shape[:2], inputs.shape[1])))
        projected = self.attention.project(x)
        outputs = self.attention(pick(x), projected, mask, deterministic=deterministic)
        outputs = self._join(pick(inputs), outputs, self.attention_norm, deterministic)
        return self._rest(outputs, None, None, deterministic)[:, 0]

    def remember(self, memory: Float[Array, "batch places width"]) -> KeysValues:
        """Projects a memory once for all steps."""
        return self.cross.project(memory)

    def start_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeysValues:
        """An empty cache of a causal layer with room for `length` vectors an item."""
        heads, dim = self.heads, self.width // self.heads
        return KeysValues(
            jnp.zeros((batch, heads, dim, length), dtype),
            jnp.zeros((batch, heads, length, dim), dtype),
        )

    def prefill(
        self,
        inputs: Float[Array, "batch length width"],
        cache: KeysValues,
        mask: Bool[Array, "#batch #length length"] | None = None,
    ) -> tuple[Float[Array, "batch length width"], KeysValues]:
        """Runs a causal layer over beginnings at once; equals as many steps.

        Args:
            inputs: Vectors of the beginnings.
            cache: An empty one, with room for them.
            mask: As in a call.

        Returns:
            Vectors of the beginnings, and the cache with them in it.
        """
        kept = cache

        def attend(x):
            nonlocal kept
            projected = self.attention.project(x)
            kept = write_step(cache, projected, jnp.zeros((), jnp.int32))
            return self.attention(x, projected, mask)

        outputs = self._add(inputs, self.attention_norm, attend, True)
        return self._rest(outputs, None, None, True), kept

    def step(
        self,
        inputs: Float[Array, "groups mates width"],
        cache: KeysValues,
        place: Int32[Array, ""],
        mask: Bool[Array, "groups mates length"],
        memory: KeysValues | None = None,
        memory_mask: Bool[Array, "batch places"] | None = None,
    ) -> tuple[Float[Array, "groups mates width"], KeysValues]:
        """Runs one step of a causal layer, for groups of rows that have a cache in common.

        Equals the row of a call with a causal mask where the mask admits the same steps.

        Args:
            inputs: Vectors of the step.
            cache: Keys and values of the steps so far, of all rows of a group.
            place: Where in the cache this step of all mates goes.
            mask: True where a row may attend to a place in the cache; its own is one.
            memory: As in a call, one for every groups / batch groups in turn: they share it
                without a copy.
            memory_mask: True where a place of the memory may be attended to.

        Returns:
            Vectors of the step, and the cache with the step in it.
        """
        kept = cache

        def attend(x):
            nonlocal kept
            kept = write_step(cache, self.attention.project(x), place)
            return self.attention(x, kept, mask)

        outputs = self._add(inputs, self.attention_norm, attend, True)
        if memory is not None:
            outputs = outputs.reshape(len(memory.keys), -1, self.width)
            memory_mask = None if memory_mask is None else memory_mask[:, None]
        outputs = self._rest(outputs, memory, memory_mask, True)
        return outputs.reshape(inputs.shape), kept

    def _rest(self, outputs, memory, memory_mask, deterministic):
        """What comes behind self-attention."""
        if self.crosses:

            def cross(x):
                return self.cross(x, memory, memory_mask, deterministic=deterministic)

            outputs = self._add(outputs, self.cross_norm, cross, deterministic)

        def feed(x):
            x = ACTIVATIONS[self.activation](self.widen(x))
            return self.narrow(self.drop_hidden(x, deterministic=deterministic))

        return self._add(outputs, self.feed_norm, feed, deterministic)

    def _add(self, inputs, norm, part, deterministic):
        """Adds a part to its inputs, normalised before or after."""
        outputs = part(norm(inputs) if self.norm == "pre" else inputs)
        return self._join(inputs, outputs, norm, deterministic)

    def _join(self, inputs, outputs, norm, deterministic):
        """Adds what a part gave, and normalises the sum if it stands behind."""
        outputs = inputs + self.drop(outputs, deterministic=deterministic)
        return outputs if self.norm == "pre" else norm(outputs)


def causal_mask(length: int) -> Bool[Array, "1 length length"]:
    """True where a column is not behind its row."""
    return jnp.tril(jnp.ones((length, length), bool))[None]
