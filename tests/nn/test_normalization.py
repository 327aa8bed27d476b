"""Layer normalisation beside linen's, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxembed.nn import LayerNorm

EPSILON = 1e-5


def _case(shape=(3, 5, 16), seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(2, 3, shape).astype(np.float32)
    scale, bias = random.normal(1, 0.3, (2, shape[-1])).astype(np.float32)
    return jnp.asarray(x), {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}


def test_equals_linen_with_all_gradients():
    x, variables = _case()
    ours = LayerNorm(EPSILON)
    theirs = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)

    def run(norm):
        def total(variables, x):
            y = norm.apply(variables, x)
            return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape) / y.size), y

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(variables, x)

    for a, b in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_begins_as_linen_does():
    x, _ = _case()
    ours = LayerNorm(EPSILON).init(jax.random.key(0), x)
    theirs = nn.LayerNorm(epsilon=EPSILON).init(jax.random.key(0), x)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_gradients_both_ways_and_twice():
    x, variables = _case((2, 6))
    check_grads(
        lambda variables, x: LayerNorm(0.1).apply(variables, jnp.asarray(x)),
        (variables, x),
        order=2,
        modes=("fwd", "rev"),
        atol=2e-2,
        rtol=2e-2,
    )


@pytest.mark.parametrize("wanted", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("given", [jnp.bfloat16, jnp.float32])
def test_precision_is_linens(wanted, given):
    x, variables = _case()
    y = LayerNorm(EPSILON, dtype=wanted).apply(variables, x.astype(given))
    linen = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=wanted)
    expected = linen.apply(variables, x.astype(given))
    assert y.dtype == expected.dtype
    difference = np.abs(np.asarray(y, np.float32) - np.asarray(expected, np.float32))
    assert difference.max() <= (4e-2 if y.dtype == jnp.bfloat16 else 1e-5)  # an ulp or two


def test_equal_numbers_give_the_bias():
    _, variables = _case((1, 16))
    x = jnp.full((2, 16), 1e4, jnp.float32)
    y, pull = jax.vjp(lambda x: LayerNorm(EPSILON).apply(variables, x), x)
    np.testing.assert_array_equal(y, jnp.broadcast_to(variables["params"]["bias"][None], y.shape))
    assert np.isfinite(pull(jnp.ones_like(y))[0]).all()
