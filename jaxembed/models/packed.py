"""Programs over rows that hold several texts each: what an encoder computes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxembed.models.bert import Bert
from jaxembed.models.gpt import Gpt
from jaxembed.nn.pooling import Pooling, pool_layers, pool_pieces, pool_tokens, pooling_weights

# Room for texts in a row: one of a single word has three tokens.
_TOKENS_A_TEXT = 3


def most_in_a_row(length: int) -> int:
    """Texts that a row has room for."""
    return max(length // _TOKENS_A_TEXT, 1)


def _states(model: Bert | Gpt, params: PyTree, ids: Array, positions: Array, numbers: Array) -> Any:
    """Hidden states of packed rows: nothing attends to another sequence."""
    mask = (numbers[:, :, None] == numbers[:, None]) & (numbers >= 0)[:, None]
    # On GPU and TPU float32 would else be multiplied with 10 or 8 bits.
    with jax.default_matmul_precision("default" if model.dtype == "bfloat16" else "highest"):
        return model.apply(
            {"params": params}, ids, mask, positions=positions, method="hidden_states"
        )


@functools.partial(jax.jit, static_argnames=("model", "poolings", "layers", "normalize"))
def sentence_vectors(params, ids, positions, numbers, *, model, poolings, layers, normalize):
    """One vector a text, [rows, most_in_a_row, width], of the poolings joined.

    Args:
        params: Parameters of the model.
        ids: Token ids, [rows, length].
        positions: Place of each token in its text.
        numbers: Which text of its row a token is of; -1 for padding.
        model: `Bert` or `Gpt`.
        poolings: Names in `jaxembed.nn.pooling.POOLINGS`.
        layers: As in `pool_layers`.
        normalize: Whether to bring vectors to unit length.
    """
    states = pool_layers(_states(model, params, ids, positions, numbers), layers)
    states = states.astype(jnp.float32)
    most = most_in_a_row(ids.shape[1])
    masks = numbers[:, None] == jnp.arange(most, dtype=numbers.dtype)[None, :, None]
    vectors = [_pool(states, masks, how) for how in poolings]
    joined = jnp.concatenate(vectors, axis=-1)
    if not normalize:
        return joined
    return joined / jnp.maximum(jnp.linalg.norm(joined, axis=-1, keepdims=True), 1e-12)


def _pool(states: Array, masks: Array, how: Pooling) -> Array:
    """Pools the texts of each row; as a product, which sums over its tokens all at once."""
    if how == "max":
        return jax.vmap(functools.partial(pool_tokens, how=how), (None, 1), 1)(states, masks)
    weights = pooling_weights(masks, how=how)
    return jnp.einsum("rtl,rlw->rtw", weights, states, precision="highest")


@functools.partial(jax.jit, static_argnames="model")
def all_states(params, ids, positions, numbers, *, model):
    """All hidden states, [layers + 1, rows, length, width]; arguments as of `sentence_vectors`."""
    states = _states(model, params, ids, positions, numbers)
    return jnp.stack([state.astype(jnp.float32) for state in states])


@functools.partial(jax.jit, static_argnames=("model", "pieces", "layers"))
def word_vectors(params, ids, positions, numbers, *, model, pieces, layers):
    """One vector a word, [rows, length, width], at the place that is its number.

    Args:
        params: As of `sentence_vectors`.
        ids: As of `sentence_vectors`.
        positions: As of `sentence_vectors`.
        numbers: Those of the texts and those of the words, which count within a row.
        model: As of `sentence_vectors`.
        pieces: As `how` of `pool_pieces`.
        layers: As in `pool_layers`.
    """
    numbers, words = numbers
    states = pool_layers(_states(model, params, ids, positions, numbers), layers)
    return pool_pieces(states.astype(jnp.float32), words, ids.shape[1], how=pieces)
