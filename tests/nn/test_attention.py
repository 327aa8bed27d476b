"""Attention weights: padded places get exactly nothing, and nothing becomes NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.nn import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    attention_weights,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def test_weights_are_a_softmax_over_what_the_mask_admits():
    scores = draw(0, 3, 2, 5)
    mask = jnp.arange(5)[None, None] < jnp.asarray([5, 2, 0])[:, None, None]
    weights = attention_weights(scores, mask)
    for item, length in enumerate([5, 2, 0]):
        powers = np.exp(np.float64(scores[item, :, :length]))
        wanted = powers / powers.sum(-1, keepdims=True)
        np.testing.assert_allclose(weights[item, :, :length], wanted, rtol=1e-5)
        assert not np.any(weights[item, :, length:])
    gradient = jax.grad(lambda s: jnp.sum(attention_weights(s, mask) ** 2))(scores)
    assert np.isfinite(gradient).all() and not np.any(gradient[2])
    assert attention_weights(scores.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("kind", ["additive", "dot", "general"])
def test_scores_equal_their_formulas(kind, key):
    queries, memory = draw(0, 2, 3, 4), draw(1, 2, 5, 4)
    module = {"additive": AdditiveAttention(6), "dot": DotAttention()}.get(kind)
    module = module or GeneralAttention(4)
    score = lambda m, q, memory: m(q, m.keys(memory))  # noqa: E731
    variables = module.init(key, queries, memory, method=score)
    scores = module.apply(variables, queries, memory, method=score)
    p = jax.tree.map(np.asarray, variables).get("params")
    for item in range(2):
        for query in range(3):
            for place in range(5):
                q, k = np.asarray(queries[item, query]), np.asarray(memory[item, place])
                if kind == "additive":
                    k = k @ p["key"]["kernel"] + p["key"]["bias"]
                    hidden = np.tanh(q @ p["query"]["kernel"] + k)
                    wanted = (hidden @ p["score"]["kernel"])[0]
                else:
                    wanted = q @ (k @ p["key"]["kernel"] if kind == "general" else k)
                np.testing.assert_allclose(scores[item, query, place], wanted, atol=1e-5)


def test_heads_attend_each_by_itself(key):
    x, mask = draw(0, 2, 5, 6), jnp.arange(5)[None, None] < jnp.asarray([5, 3])[:, None, None]
    module = MultiHeadAttention(6, 2)
    call = lambda m, x: m(x, m.project(x), mask)  # noqa: E731
    variables = module.init(key, x, method=call)
    got = module.apply(variables, x, method=call)
    p = jax.tree.map(np.asarray, variables["params"])
    dense = lambda name, v: v @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    for item, length in enumerate([5, 3]):
        rows = np.asarray(x[item])
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            q, k, v = (dense(name, rows)[:, part] for name in ("query", "key", "value"))
            powers = np.exp(q @ k[:length].T / 3**0.5)
            heads.append(powers / powers.sum(1, keepdims=True) @ v[:length])
        np.testing.assert_allclose(got[item], dense("out", np.hstack(heads)), atol=1e-5)
    with pytest.raises(ValueError, match="4 heads do not divide a width of 6"):
        MultiHeadAttention(6, 4).init(key, x, method=call)
