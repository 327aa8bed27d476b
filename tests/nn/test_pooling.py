"""Pooling equals loops over tokens, layers and pieces, and padding never counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.nn.pooling import (
    LAYER_CHOICES,
    POOLINGS,
    AttentionPooling,
    pool_layers,
    pool_pieces,
    pool_tokens,
    pooling_weights,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")
RNG = np.random.default_rng(0)
STATES = RNG.normal(0, 1, (4, 6, 3)).astype(np.float32)
LENGTHS = [6, 3, 1, 0]
MASK = np.arange(6)[None] < np.asarray(LENGTHS)[:, None]
NAIVE = {
    "class": lambda x: x[0],
    "mean": lambda x: x.mean(0),
    "sum": lambda x: x.sum(0),
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    "weighted-mean": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
    "mean-sqrt": lambda x: x.sum(0) / np.sqrt(len(x)),
}


@pytest.mark.parametrize("how", POOLINGS)
def test_tokens_are_pooled_as_by_a_loop(how):
    pooled = pool_tokens(jnp.asarray(STATES), jnp.asarray(MASK), how=how)
    for row, length in enumerate(LENGTHS):
        wanted = NAIVE[how](STATES[row, :length]) if length else np.zeros(3)
        np.testing.assert_allclose(pooled[row], wanted, atol=1e-6)
    if how != "max":
        weights = np.asarray(pooling_weights(jnp.asarray(MASK), how=how))
        np.testing.assert_allclose(np.einsum("bl,blw->bw", weights, STATES), pooled, atol=1e-6)
        assert not np.any(weights[~MASK])


@pytest.mark.parametrize("how", POOLINGS)
def test_padding_changes_neither_vector_nor_gradient(how):
    def total(states):
        return jnp.sum(pool_tokens(states, jnp.asarray(MASK), how=how) ** 2)

    garbage = jnp.asarray(np.where(MASK[..., None], STATES, np.float32(1e4)))
    value, slope = jax.value_and_grad(total)(garbage)
    assert value == total(jnp.asarray(STATES))
    assert np.isfinite(slope).all() and not np.any(np.asarray(slope)[~MASK])


@pytest.mark.parametrize("how", ["class", "last", "weighted-mean"])
def test_padding_may_stand_before(how):
    def turn(x):
        return jnp.asarray(np.stack([np.roll(r, -n, 0) for r, n in zip(x, LENGTHS, strict=True)]))

    before = pool_tokens(turn(STATES), turn(MASK), how=how)
    behind = pool_tokens(jnp.asarray(STATES), jnp.asarray(MASK), how=how)
    np.testing.assert_allclose(before, behind, atol=1e-6)


def test_layers_are_chosen_by_name_and_number():
    states = list(jnp.asarray(RNG.normal(0, 1, (5, 2, 3)), jnp.float32))
    last = np.asarray(states[-4:])
    wanted = {
        "last": last[-1],
        "second-to-last": last[-2],
        "mean-last-four": last.mean(0),
        "sum-last-four": last.sum(0),
        "concatenate-last-four": np.concatenate(list(last), axis=-1),
    }
    assert wanted.keys() == LAYER_CHOICES.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(pool_layers(states, name), value, atol=1e-6)
    pair = np.concatenate([states[0], states[3]], axis=-1)
    np.testing.assert_array_equal(pool_layers(states, (0, -2), how="concatenate"), pair)


@pytest.mark.parametrize("how", ["first", "mean", "max"])
def test_pieces_make_words_as_by_a_loop(how):
    words = np.asarray([[-1, 0, 0, 1, 1, -1], [-1, 0, 2, 2, 2, -1], [-1] * 6, [3, 0, 1, 1, 1, 5]])
    pooled = pool_pieces(jnp.asarray(STATES), jnp.asarray(words, jnp.int32), 4, how=how)
    choose = {"first": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}[how]
    for row in range(4):
        for word in range(4):
            pieces = STATES[row, words[row] == word]
            wanted = choose(pieces) if len(pieces) else np.zeros(3)
            np.testing.assert_allclose(pooled[row, word], wanted, atol=1e-6)


def test_attention_pooling_ignores_padding():
    module = AttentionPooling(width=6, heads=2, hidden=8)
    states = jnp.asarray(RNG.normal(0, 1, (2, 5, 6)), jnp.float32)
    variables = draw_params(module, states)
    mask = jnp.arange(5)[None] < jnp.asarray([[5], [3]])
    apply = jax.jit(module.apply)
    whole = apply(variables, states, mask)
    changed = apply(variables, jnp.where(mask[..., None], states, 9.0), mask)
    np.testing.assert_array_equal(whole, changed)
    unmasked = apply(variables, states, jnp.ones_like(mask))
    np.testing.assert_allclose(whole[0], unmasked[0], atol=1e-6)
    assert np.abs(whole[1] - unmasked[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool_layers([jnp.zeros(2)], "first"), "Unknown layers 'first'"),
        (lambda: pool_layers([jnp.zeros(2)], (1,)), "from -1 to 0"),
        (lambda: pool_layers([jnp.zeros(2)], ()), "one or more"),
        (lambda: pooling_weights(jnp.ones((1, 2), bool), how="max"), "no weighted sum"),
    ],
)
def test_a_wrong_choice_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
