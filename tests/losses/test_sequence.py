"""Token cross-entropy against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.losses import token_cross_entropy

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_loss_equals_its_definition(smoothing, shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (*shape, 5)).astype(np.float32)
    targets = rng.integers(0, 5, shape)
    got = token_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing)
    for place in np.ndindex(shape):
        log_probs = logits[place] - np.log(np.exp(np.float64(logits[place])).sum())
        share = np.full(5, smoothing / 5)
        share[targets[place]] += 1 - smoothing
        np.testing.assert_allclose(got[place], -(share * log_probs).sum(), rtol=1e-5)


def test_padding_has_neither_loss_nor_gradient():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 3, 5)), jnp.float32)
    targets, mask = jnp.zeros((2, 3), int), jnp.asarray([[True, True, False], [False] * 3])

    def total(logits):
        return jnp.sum(token_cross_entropy(logits, targets, mask=mask, label_smoothing=0.1))

    value, gradient = jax.value_and_grad(total)(logits)
    kept = token_cross_entropy(logits[:1, :2], targets[:1, :2], label_smoothing=0.1)
    np.testing.assert_allclose(value, np.sum(kept), rtol=1e-6)
    assert not np.any(gradient[~mask]) and np.any(gradient[mask])
    short = token_cross_entropy(logits.astype(jnp.bfloat16), targets)
    assert short.dtype == jnp.float32


def test_bad_input_is_refused():
    with pytest.raises((ValueError, TypeError), match="first two axes|length"):
        token_cross_entropy(jnp.zeros((2, 3, 5)), jnp.zeros((2, 4), int))
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        token_cross_entropy(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int), label_smoothing=1.0)
