"""The Transformer block: one place of a sequence alone is what a whole call gives there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.nn import TransformerLayer, causal_mask

PLACES = jnp.asarray([0, 4, 2])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("masked", ["none", "causal", "padded"])
def test_one_place_equals_the_whole_call(norm, masked):
    layer = TransformerLayer(width=8, heads=2, hidden=12, norm=norm)
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    masks = {"none": None, "causal": causal_mask(5)}
    mask = masks.get(masked, (jnp.arange(5)[None] <= PLACES[:, None])[:, None])
    variables = draw_params(layer, x, mask)

    def whole(variables, x):
        return layer.apply(variables, x, mask)[jnp.arange(3), PLACES]

    def alone(variables, x):
        return layer.apply(variables, x, PLACES, mask, method="at")

    def run(function):
        return function(variables, x), jax.grad(
            lambda *given: jnp.sum(jnp.sin(function(*given))), argnums=(0, 1)
        )(variables, x)

    for a, b in zip(jax.tree.leaves(run(alone)), jax.tree.leaves(run(whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
