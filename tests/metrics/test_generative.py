"""Estimates against naive numpy, and the codes' metrics on data with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.metrics import (
    active_units,
    anomaly_auroc,
    bits_per_dimension,
    importance_log_likelihood,
    knn_accuracy,
    latent_activity,
    linear_probe_accuracy,
    pca_codes,
)
from jaxembed.models import VAE
from jaxembed.train import make_mesh

MODEL = VAE((4,), latent=2, hidden=())
X = (np.random.default_rng(0).random((7, 4)) < 0.5).astype(np.float32)


def test_estimate_and_its_error_hold_over_repetitions():
    params = jax.jit(MODEL.init)(jax.random.key(0), X)["params"]
    # A posterior near the true one: weights with long tails hide from any estimated error.
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    # 200 repetitions a row, at places that chunks cut anywhere.
    rows = jnp.repeat(jnp.asarray(X), 200, axis=0)
    estimate, error = importance_log_likelihood(MODEL, params, rows, jax.random.key(1), samples=150)
    estimate, error = np.reshape(estimate, (7, 200)), np.reshape(error, (7, 200))
    # The spread of 200 draws has a relative error of 5%, the formula some of its own.
    np.testing.assert_allclose(estimate.std(axis=1), error.mean(axis=1), rtol=0.25)
    # Integrated on a grid: log of the sum of p(x | z) p(z) over squares of z.
    axis = np.arange(-6, 6, 0.05)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    logits = np.asarray(MODEL.apply({"params": params}, jnp.asarray(grid, jnp.float32),
                                    method="decode"), np.float64)  # fmt: skip
    log_prior = -0.5 * np.sum(grid**2, axis=1) - np.log(2 * np.pi) + 2 * np.log(0.05)
    for row, x in enumerate(X):
        joint = np.sum(x * logits - np.logaddexp(0, logits), axis=1) + log_prior
        wanted = np.log(np.sum(np.exp(joint)))
        spread = error[row].mean() / np.sqrt(200)
        assert abs(estimate[row].mean() - wanted) < 4 * spread + 1e-4


def test_estimates_do_not_depend_on_the_devices():
    params = jax.jit(MODEL.init)(jax.random.key(0), X)["params"]
    mesh = make_mesh()
    key = jax.random.key(1)
    wanted = importance_log_likelihood(MODEL, params, X, key, samples=3)
    got = importance_log_likelihood(MODEL, params, X, key, samples=3, mesh=mesh)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-5, atol=1e-6)
    # Squared errors are a difference from 1, in float32: of a small one fewer digits are left.
    np.testing.assert_allclose(np.square(got[1]), np.square(wanted[1]), atol=1e-6)
    # The same example at another place has other noise.
    moved = importance_log_likelihood(MODEL, params, X[::-1], key, samples=3)
    assert np.any(np.abs(moved[0][::-1] - wanted[0]) > 1e-3)


def test_bits_and_activity_by_hand():
    got = bits_per_dimension(jnp.asarray([-8 * np.log(2.0)], jnp.float32), dimensions=4)
    np.testing.assert_allclose(got, [2.0], rtol=1e-6)
    shifted = bits_per_dimension(jnp.zeros(1), dimensions=4, levels=256)
    np.testing.assert_allclose(shifted, [8.0], rtol=1e-6)
    means = jnp.asarray([[1.0, 0.05], [-1.0, -0.05]])
    np.testing.assert_allclose(latent_activity(means), [1.0, 0.0025], rtol=1e-5)
    assert active_units(means) == 1 and active_units(means, threshold=0.001) == 2
    with pytest.raises(ValueError, match="0 samples"):
        importance_log_likelihood(MODEL, {}, X, jax.random.key(0), samples=0)


def test_codes_of_two_clusters_are_told_apart_and_noise_is_not():
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    codes = random.normal(size=(200, 3)) + 8.0 * labels[:, None]
    halves = codes[:100], labels[:100], codes[100:], labels[100:]
    assert linear_probe_accuracy(*halves) == knn_accuracy(*halves) == 1.0
    # The probability of 35 or fewer, or 65 or more, of 100 fair coins is 0.4%.
    assert 0.35 < knn_accuracy(halves[0], random.permutation(halves[1]), *halves[2:]) < 0.65
    with pytest.raises(ValueError, match="training codes are"):
        knn_accuracy(codes[:99], *halves[1:])


def test_pca_error_is_the_variance_left_out():
    random = np.random.default_rng(0)
    data = random.normal(size=(50, 2, 3))
    codes, _, error = pca_codes(data, data, size=2)
    flat = data.reshape(50, 6) - data.reshape(50, 6).mean(axis=0)
    left = np.sort(np.linalg.eigvalsh(flat.T @ flat / 50))[:4].sum()
    assert codes.shape == (50, 2) and error == pytest.approx(left)
    with pytest.raises(ValueError, match="a PCA of size 7"):
        pca_codes(data, data, size=7)


def test_auroc_is_the_share_of_pairs_in_order():
    scores, is_anomaly = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert anomaly_auroc(scores, is_anomaly) == 0.75
    with pytest.raises(ValueError, match="4 anomalies"):
        anomaly_auroc(scores, np.ones(4, bool))
