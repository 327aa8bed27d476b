"""Divergences and bounds against closed forms, and the doubly reparameterised gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxembed.losses import (
    beta_schedule,
    doubly_reparameterized_bound,
    elbo,
    free_bits,
    gaussian_kl,
    gaussian_kl_per_dimension,
    gaussian_log_likelihood,
    iwae_bound,
    monte_carlo_kl,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")
MASK = jnp.asarray([True, False, True, True])


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


@pytest.mark.parametrize("shape", [(1, 1), (4, 3)])
def test_gaussian_kl_equals_the_closed_form_summed_over_dimensions(shape):
    mean, log_var = draw(0, *shape), draw(1, *shape)
    exact = np.float64(mean) ** 2 + np.exp(np.float64(log_var)) - 1 - np.float64(log_var)
    np.testing.assert_allclose(gaussian_kl(mean, log_var), exact.sum(1) / 2, rtol=1e-5)
    np.testing.assert_allclose(gaussian_kl_per_dimension(mean, log_var), exact / 2, rtol=1e-4)


def test_monte_carlo_kl_agrees_with_the_analytic_one():
    mean, log_var = 0.5 * draw(0, 3, 2), 0.5 * draw(1, 3, 2)
    shape = (20_000, 3, 2)
    noise = jax.random.normal(jax.random.key(0), shape)
    mean_of_all, log_var_of_all = jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape)
    z = mean_of_all + jnp.exp(0.5 * log_var_of_all) * noise
    posterior = gaussian_log_likelihood(z, mean_of_all, log_var_of_all)
    prior = gaussian_log_likelihood(z, jnp.zeros(shape), jnp.zeros(shape))
    error = np.std(np.asarray(posterior - prior), axis=0) / np.sqrt(shape[0])
    difference = np.abs(monte_carlo_kl(posterior, prior) - gaussian_kl(mean, log_var))
    assert np.all(difference < 4 * error)


def test_kl_stays_finite_at_huge_log_variances():
    huge = jnp.asarray([[1e4, -1e4, 88.0, -88.0]])
    value, gradient = jax.value_and_grad(lambda v: gaussian_kl(jnp.zeros((1, 4)), v).sum())(huge)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_mask_zeroes_rows_and_their_gradients():
    mean, log_var = draw(0, 4, 3), draw(1, 4, 3)

    def total(mean):
        bits = free_bits(gaussian_kl_per_dimension(mean, log_var), minimum=0.1, mask=MASK)
        return jnp.sum(gaussian_kl(mean, log_var, mask=MASK) + bits), bits

    (_, bits), gradient = jax.value_and_grad(total, has_aux=True)(mean)
    assert not np.any(gradient[~MASK]) and not bits[1]
    subset = free_bits(gaussian_kl_per_dimension(mean[MASK], log_var[MASK]), minimum=0.1)
    np.testing.assert_allclose(bits[MASK], subset, rtol=1e-6)
    assert iwae_bound(draw(2, 5, 4), mask=MASK)[1] == 0


def test_free_bits_is_the_larger_of_minimum_and_mean_in_each_dimension():
    kl = jnp.asarray([[0.1, 2.0], [0.3, 4.0]])
    np.testing.assert_allclose(free_bits(kl, minimum=0.5).mean(), 0.5 + 3.0, rtol=1e-6)
    gradient = jax.grad(lambda kl: free_bits(kl, minimum=0.5).sum())(kl)
    np.testing.assert_array_equal(gradient, [[0, 1], [0, 1]])


def test_beta_rises_linearly_to_its_end():
    steps = [0, 5, 10, 99]
    got = [float(beta_schedule(step, warmup_steps=10, beta=4.0)) for step in steps]
    assert got == [0.0, 2.0, 4.0, 4.0]
    assert float(beta_schedule(0, warmup_steps=0, beta=4.0)) == 4.0
    with pytest.raises(ValueError, match="warmup_steps is -1"):
        beta_schedule(0, warmup_steps=-1)


def test_elbo_and_bound_by_hand():
    np.testing.assert_allclose(elbo(draw(0, 3), draw(1, 3), beta=2.0), draw(0, 3) - 2 * draw(1, 3))
    weights = draw(2, 5, 3)
    wanted = np.log(np.exp(np.float64(weights)).mean(0))
    np.testing.assert_allclose(iwae_bound(weights), wanted, rtol=1e-5)
    np.testing.assert_allclose(iwae_bound(weights[:1]), weights[0], rtol=1e-6)
    assert np.isfinite(iwae_bound(1e4 * weights)).all()


def test_shapes_that_would_broadcast_are_refused():
    refused = pytest.raises((ValueError, TypeError))
    with refused:
        elbo(draw(0, 3), draw(1, 1))
    with refused:
        gaussian_kl(draw(0, 3, 2), draw(1, 3, 1))
    with refused:
        monte_carlo_kl(draw(0, 5, 3), draw(1, 4, 3))


def test_gradients_equal_finite_differences():
    def total(mean, log_var):
        mean, log_var = jnp.asarray(mean), jnp.asarray(log_var)
        return gaussian_kl(mean, log_var) + iwae_bound(mean.T)

    arguments = (draw(0, 3, 3), draw(1, 3, 3))
    check_grads(total, arguments, order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


def linear_log_weights(params, z, others):
    """Of p(x | z) = N(x; weight * z, 1) under a fixed diagonal posterior."""
    x, mean, log_var = (jnp.broadcast_to(each, z.shape) for each in others)
    joint = gaussian_log_likelihood(x, params * z, jnp.zeros_like(z))
    joint += gaussian_log_likelihood(z, jnp.zeros_like(z), jnp.zeros_like(z))
    return joint - gaussian_log_likelihood(z, mean, log_var)


def test_doubly_reparameterised_gradient_is_unbiased_with_lower_variance():
    x, start = draw(0, 1, 2), (0.3 * draw(1, 1, 2), 0.3 * draw(2, 1, 2) - 1.0)
    weight = jnp.float32(1.2)

    def bound(posterior, weight, key, doubly):
        mean, log_var = posterior
        noise = jax.random.normal(key, (50, 1, 2))
        z = mean[None] + jnp.exp(0.5 * log_var)[None] * noise
        if doubly:
            value = doubly_reparameterized_bound(linear_log_weights, weight, z, (x, mean, log_var))
        else:
            value = iwae_bound(linear_log_weights(weight, z, (x, mean, log_var)))
        return value.sum()

    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def gradients(keys):
        def both(key):
            take = [
                jax.value_and_grad(lambda p, w, d=d: bound(p, w, key, d), argnums=(0, 1))(
                    start, weight
                )
                for d in (False, True)
            ]
            return take

        return jax.vmap(both)(keys)

    (plain_value, (plain, plain_model)), (value, (doubly, model)) = gradients(keys)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5)
    # The generative model's gradient is the same, sample by sample.
    np.testing.assert_allclose(model, plain_model, rtol=1e-4, atol=1e-5)
    plain, doubly = (np.concatenate([np.asarray(leaf)[:, 0] for leaf in pair], axis=1)
                     for pair in (plain, doubly))  # fmt: skip
    error = np.std(plain - doubly, axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(np.mean(plain - doubly, axis=0)) < 3 * error)
    assert np.all(np.var(doubly, axis=0) < np.var(plain, axis=0))
