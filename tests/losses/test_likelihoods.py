"""Log-likelihoods against their definitions in float64, sums over all outcomes, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from jaxembed.losses import (
    bernoulli_log_likelihood,
    categorical_log_likelihood,
    discretized_logistic_log_likelihood,
    gaussian_log_likelihood,
    multinomial_log_likelihood,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")
BATCHES = pytest.mark.parametrize("batch", [1, 4])
MASK = jnp.asarray([True, False, True, False])


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def binary(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape) < 0.5, jnp.float32)


def classes(seed, count, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, count, shape), jnp.int32)


@BATCHES
def test_bernoulli_equals_scipy(batch):
    x, logits = binary(0, batch, 6), draw(1, batch, 6)
    wanted = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-np.float64(logits)))).sum(1)
    np.testing.assert_allclose(bernoulli_log_likelihood(x, logits), wanted, rtol=1e-5)


@BATCHES
def test_gaussian_equals_scipy(batch):
    x, mean, log_var = draw(0, batch, 6), draw(1, batch, 6), draw(2, batch, 6)
    deviation = np.exp(0.5 * np.float64(log_var))
    wanted = scipy.stats.norm.logpdf(x, mean, deviation).sum(1)
    np.testing.assert_allclose(gaussian_log_likelihood(x, mean, log_var), wanted, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-8.0, -3.0, 0.0, 12.0])
def test_discretized_logistic_sums_to_one_over_the_levels(log_scale):
    levels = 16
    x = jnp.arange(levels, dtype=jnp.float32)[:, None] / (levels - 1)
    got = discretized_logistic_log_likelihood(
        x, jnp.full_like(x, 0.37), jnp.full_like(x, log_scale), levels=levels
    )
    # float32 logarithms of mass around e^-17 carry about 1e-6 each.
    assert np.sum(np.exp(np.float64(got))) == pytest.approx(1.0, abs=1e-5)


def test_discretized_logistic_equals_a_difference_of_distribution_functions():
    x = classes(0, 14, 4, 5).astype(jnp.float32) / 15 + 1 / 15  # neither the first nor the last
    mean, log_scale = 0.5 + 0.2 * draw(1, 4, 5), -2.0 + 0.3 * draw(2, 4, 5)
    above = scipy.stats.logistic.cdf(np.float64(x) + 1 / 30, mean, np.exp(np.float64(log_scale)))
    below = scipy.stats.logistic.cdf(np.float64(x) - 1 / 30, mean, np.exp(np.float64(log_scale)))
    got = discretized_logistic_log_likelihood(x, mean, log_scale, levels=16)
    np.testing.assert_allclose(got, np.log(above - below).sum(1), rtol=1e-5)


@BATCHES
def test_categorical_equals_its_definition(batch):
    x, logits = classes(0, 5, batch, 3), draw(1, batch, 3, 5)
    exact = np.float64(logits)
    shares = np.take_along_axis(exact, np.asarray(x)[..., None], -1)[..., 0]
    wanted = (shares - np.log(np.exp(exact).sum(-1))).sum(1)
    np.testing.assert_allclose(categorical_log_likelihood(x, logits), wanted, rtol=1e-5)


@pytest.mark.parametrize("most", [2, 6])  # sets of items, and counts
def test_multinomial_equals_scipy_with_its_coefficient(most):
    counts, logits = classes(0, most, 4, 6).astype(jnp.float32), draw(1, 4, 6)
    exact = np.float64(logits)
    shares = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    whole = np.asarray(counts, int)
    wanted = [
        scipy.stats.multinomial.logpmf(row, row.sum(), share)
        for row, share in zip(whole, shares, strict=True)
    ]
    np.testing.assert_allclose(multinomial_log_likelihood(counts, logits), wanted, rtol=1e-5)


@jax.jit
def all_of_them(x, parameter, mask):
    """Each likelihood, with `parameter` for the logits or for mean and log-scale."""
    chosen = (x[:, :1] > 0).astype(jnp.int32)
    return jnp.stack(
        [
            bernoulli_log_likelihood(x, parameter, mask=mask),
            gaussian_log_likelihood(x, parameter, parameter, mask=mask),
            discretized_logistic_log_likelihood(x, parameter, parameter, levels=2, mask=mask),
            categorical_log_likelihood(chosen, parameter[:, None, :], mask=mask),
            multinomial_log_likelihood(x, parameter, mask=mask),
        ]
    )


@jax.jit
def summed_gradient(x, parameter):
    return jax.grad(lambda parameter: all_of_them(x, parameter, None).sum())(parameter)


@pytest.mark.parametrize("size", [0.0, 88.0, 1e4])
def test_values_and_gradients_stay_finite_at_large_parameters(size):
    x = binary(0, 4, 6)
    parameter = size * jnp.where(binary(1, 4, 6) > 0, 1.0, -1.0)
    values, gradients = all_of_them(x, parameter, None), summed_gradient(x, parameter)
    assert np.isfinite(values).all() and np.isfinite(gradients).all()
    # A wrong binary value costs its logit, neither infinity nor a clipped constant.
    wrong = bernoulli_log_likelihood(jnp.ones((1, 1)), jnp.full((1, 1), -size))
    np.testing.assert_allclose(wrong, -size if size else -np.log(2), rtol=1e-6)


def test_masked_rows_are_zero_and_the_rest_is_the_subset():
    x, parameter = binary(0, 4, 6), draw(1, 4, 6)
    masked = all_of_them(x, parameter, MASK)
    assert not np.any(masked[:, ~MASK])
    np.testing.assert_allclose(
        masked[:, MASK], all_of_them(x[MASK], parameter[MASK], None), rtol=1e-6
    )
    gradient = jax.jit(jax.grad(lambda parameter: all_of_them(x, parameter, MASK).sum()))(parameter)
    assert not np.any(gradient[~MASK]) and np.any(gradient[MASK])


def test_gradients_equal_finite_differences():
    x = binary(0, 2, 3)

    def total(parameter):
        return all_of_them(x, jnp.asarray(parameter), None)

    check_grads(total, (draw(1, 2, 3),), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_one_level_is_refused():
    x = jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="levels is 1"):
        discretized_logistic_log_likelihood(x, x, x, levels=1)
