"""Attention: over the states of an encoder by a few formulas, and with several heads."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

from jaxembed.nn.dense import Dense


def attention_weights(
    scores: Float[Array, "*axes queries length"],
    mask: Bool[Array, "... length"] | None = None,
) -> Float32[Array, "*axes queries length"]:
    """Softmax in float32 over the places that the mask admits.

    Args:
        scores: Logits.
        mask: True where a place may be attended to; its axes are those of `scores`, or 1.

    Returns:
        Weights that sum to 1 over each row; exactly 0 where the mask is False, and in a row that
        is masked whole.
    """
    scores = scores.astype(jnp.float32)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # A finite floor: a row that is masked whole must have gradient 0, not NaN.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.where(mask, weights, 0.0)


class AdditiveAttention(nn.Module):
    """Scores v . tanh(W query + U key).

    Attributes:
        width: Size of the hidden layer.

    Reference: Bahdanau et al., 2015, https://arxiv.org/abs/1409.0473, section A.1.2.
    """

    width: int

    def setup(self):
        """The three maps."""
        self.query = Dense(self.width, use_bias=False)
        self.key = Dense(self.width)
        self.score = Dense(1, use_bias=False)

    def keys(self, memory: Float[Array, "batch length dim"]) -> Float[Array, "batch length width"]:
        """What of the memory no query changes."""
        return self.key(memory)

    def __call__(
        self,
        queries: Float[Array, "batch queries dim"],
        keys: Float[Array, "batch length width"],
    ) -> Float[Array, "batch queries length"]:
        """The scores of each place."""
        hidden = jnp.tanh(self.query(queries)[:, :, None] + keys[:, None])
        return self.score(hidden)[..., 0]


class DotAttention(nn.Module):
    """Scores query . key, which must be of one size.

    Reference: Luong et al., 2015, https://arxiv.org/abs/1508.04025, eq. 8.
    """

    def keys(self, memory: Float[Array, "batch length dim"]) -> Float[Array, "batch length dim"]:
        """The memory itself."""
        return memory

    def __call__(
        self, queries: Float[Array, "batch queries dim"], keys: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch queries length"]:
        """The scores of each place."""
        return jnp.einsum("bqd,btd->bqt", queries, keys)


class GeneralAttention(nn.Module):
    """Scores query . W key.

    Attributes:
        width: Size of the queries.

    Reference: Luong et al., 2015, https://arxiv.org/abs/1508.04025, eq. 8.
    """

    width: int

    def setup(self):
        """The map."""
        self.key = Dense(self.width, use_bias=False)

    def keys(self, memory: Float[Array, "batch length dim"]) -> Float[Array, "batch length width"]:
        """What of the memory no query changes."""
        return self.key(memory)

    def __call__(
        self, queries: Float[Array, "batch queries width"], keys: Float[Array, "batch length width"]
    ) -> Float[Array, "batch queries length"]:
        """The scores of each place."""
        return jnp.einsum("bqd,btd->bqt", queries, keys)


class KeysValues(NamedTuple):
    """Projected memory: what a query is compared with and what it gets.

    Each head's part is a matrix as its product takes it, or every step of decoding would transpose
    all of it.
    """

    keys: Float[Array, "batch heads dim length"]
    values: Float[Array, "batch heads length dim"]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads.

    Attributes:
        width: Size of the inputs and of all heads together.
        heads: How many heads; divides `width`.
        dropout: Probability of dropping a weight.
        dtype: What projections compute in; None for that of inputs and parameters.

    Reference: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    width: int
    heads: int
    dropout: float = 0.0
    dtype: str | None = None

    def setup(self):
        """Four projections with biases."""
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}.")
        self.query = Dense(self.width, dtype=self.dtype)
        self.key = Dense(self.width, dtype=self.dtype)
        self.value = Dense(self.width, dtype=self.dtype)
        self.out = Dense(self.width, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def project(self, memory: Float[Array, "batch length width"]) -> KeysValues:
        """The keys and values of a memory, which is what a cache holds."""
        keys, values = self._split(self.key(memory)), self._split(self.value(memory))
        return KeysValues(jnp.swapaxes(keys, 2, 3), values)

    def __call__(
        self,
        inputs: Float[Array, "batch queries width"],
        memory: KeysValues,
        mask: Bool[Array, "#batch #queries length"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch queries width"]:
        """Attends to a projected memory.

        Args:
            inputs: What asks.
            memory: As `project` returns it.
            mask: True where a place may be attended to.
            deterministic: False drops weights, and needs a random key named "dropout".

        Returns:
            One vector a query; the output bias alone where a row is masked whole.
        """
        queries = self._split(self.query(inputs)) * (self.width // self.heads) ** -0.5
        scores = queries @ memory.keys  # [batch, heads, queries, length]
        weights = attention_weights(scores, None if mask is None else mask[:, None])
        weights = self.drop(weights, deterministic=deterministic).astype(memory.values.dtype)
        # Not einsum: it would swap the factors, and the CPU has only a slow loop for that.
        attended = jnp.swapaxes(weights @ memory.values, 1, 2)
        return self.out(attended.reshape(inputs.shape))

    def _split(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch h length d"]:
        return jnp.swapaxes(x.reshape(*x.shape[:2], self.heads, -1), 1, 2)


def write_step(cache: KeysValues, step: KeysValues, place: Int32[Array, ""]) -> KeysValues:
    """Puts what a step adds into a cache, from a place on."""
    zero = jnp.zeros_like(place)
    return KeysValues(
        lax.dynamic_update_slice(
            cache.keys, step.keys.astype(cache.keys.dtype), (zero, zero, zero, place)
        ),
        lax.dynamic_update_slice(
            cache.values, step.values.astype(cache.values.dtype), (zero, zero, place, zero)
        ),
    )
