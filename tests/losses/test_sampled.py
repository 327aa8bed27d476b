"""Losses of word2vec against naive loops, and their masks and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxembed.losses import full_softmax, hierarchical_softmax, negative_sampling

BATCHES = pytest.mark.parametrize("batch", [1, 7])
pytestmark = pytest.mark.usefixtures("strict_dtypes")


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def log_sigmoid(x):
    return -np.log1p(np.exp(-np.float64(x)))


@BATCHES
def test_negative_sampling_equals_equation_4(batch):
    inputs, positives, negatives = draw(0, batch, 5), draw(1, batch, 5), draw(2, batch, 3, 5)
    wanted = [
        -log_sigmoid(np.dot(inputs[b], positives[b]))
        - 0.5 * sum(log_sigmoid(-np.dot(inputs[b], negatives[b, k])) for k in range(3))
        for b in range(batch)
    ]
    got = negative_sampling(inputs, positives, negatives, negative_weight=0.5)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@BATCHES
def test_hierarchical_softmax_equals_the_product_of_decisions(batch):
    inputs, nodes = draw(0, batch, 5), draw(1, batch, 4, 5)
    turns = jnp.asarray(np.random.default_rng(2).random((batch, 4)) < 0.5)
    mask = jnp.asarray(np.arange(4) < np.random.default_rng(3).integers(1, 5, (batch, 1)))
    wanted = [
        -sum(
            log_sigmoid((-1 if turns[b, n] else 1) * np.dot(inputs[b], nodes[b, n]))
            for n in range(4)
            if mask[b, n]
        )
        for b in range(batch)
    ]
    got = hierarchical_softmax(inputs, nodes, turns, mask=mask)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@BATCHES
def test_full_softmax_equals_its_definition(batch):
    inputs, outputs = draw(0, batch, 5), draw(1, 9, 5)
    targets = jnp.asarray(np.random.default_rng(2).integers(0, 9, batch), jnp.int32)
    logits = np.asarray(inputs, np.float64) @ np.asarray(outputs, np.float64).T
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(batch), targets]
    np.testing.assert_allclose(full_softmax(inputs, outputs, targets), wanted, rtol=1e-5)


@pytest.mark.parametrize("loss", ["negative", "full"])
def test_masked_rows_are_zero_with_finite_gradients(loss):
    inputs, others = draw(0, 6, 5), draw(1, 6, 5)
    mask = jnp.asarray([True, False, True, True, False, True])

    def total(inputs, mask, rows=slice(None)):
        if loss == "negative":
            values = negative_sampling(inputs, others[rows], draw(2, 6, 3, 5)[rows], mask=mask)
        else:
            targets = jnp.arange(6, dtype=jnp.int32)[rows]
            values = full_softmax(inputs, others, targets, mask=mask)
        return jnp.sum(values), values

    (masked, values), gradient = jax.value_and_grad(total, has_aux=True)(inputs, mask)
    subset, _ = total(inputs[mask], None, np.asarray(mask))
    np.testing.assert_allclose(masked, subset, rtol=1e-6)
    assert not np.any(values[~mask]) and not np.any(gradient[~mask])
    gradient = jax.grad(lambda inputs: total(inputs, jnp.zeros(6, bool))[0])(inputs)
    assert not np.any(gradient)


def test_losses_stay_finite_at_large_logits():
    big = jnp.full((1, 4), 60.0)
    assert np.isfinite(negative_sampling(big, -big, big[:, None])).all()
    assert np.isfinite(hierarchical_softmax(big, big[:, None], jnp.asarray([[True]]))).all()


def on_arrays(loss):
    """`check_grads` passes numpy arrays."""
    return lambda *arrays: loss(*map(jnp.asarray, arrays))


def test_gradients_equal_finite_differences():
    arguments = (draw(0, 3, 4), draw(1, 3, 4), draw(2, 3, 2, 4))
    check_grads(
        on_arrays(negative_sampling), arguments, order=1, modes=["rev"], rtol=2e-2, atol=2e-2
    )
    turns = jnp.asarray([[True, False]] * 3)
    check_grads(
        on_arrays(lambda inputs, nodes: hierarchical_softmax(inputs, nodes, turns)),
        (arguments[0], arguments[2]),
        order=1,
        modes=["rev"],
        rtol=2e-2,
        atol=2e-2,
    )


def test_batches_of_different_sizes_are_refused():
    # By the function itself, or before it by the shapes in its signature.
    refused = pytest.raises((ValueError, TypeError), match="batch|2 positives|2 targets")
    with refused:
        negative_sampling(draw(0, 3, 4), draw(1, 2, 4), draw(2, 3, 2, 4))
    with refused:
        full_softmax(draw(0, 3, 4), draw(1, 9, 4), jnp.zeros(2, jnp.int32))
