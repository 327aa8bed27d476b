"""AE: the PCA it contains, its corruptions and penalty, mixed tables, and bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxembed.metrics import pca_codes
from jaxembed.models import AE, make_autoencoder_loss
from jaxembed.train import EpochNumbers, gradient_step, make_epoch_step, make_state, train


def init(model, x):
    return jax.jit(model.init)(jax.random.key(1), x)["params"]


def test_linear_autoencoder_reaches_the_error_of_pca():
    random = np.random.default_rng(0)
    x = (random.normal(size=(64, 5)) * [3.0, 2.0, 0.3, 0.2, 0.1]).astype(np.float32)
    model, optimizer = (
        AE((5,), latent=2, hidden=()),
        optax.adam(optax.linear_schedule(0.05, 0, 4000)),
    )
    step = gradient_step(make_autoencoder_loss(model), optimizer, key=jax.random.key(0))
    epoch = make_epoch_step(step, {"x": np.tile(x, (100, 1))}, batch_size=64,
                            key=jax.random.key(0), shuffle=False)  # fmt: skip
    start = make_state(init(model, x), optimizer)
    params = train(epoch, start, EpochNumbers(40), batch_axis=None).params
    rebuilt = model.apply({"params": params}, x, method="reconstruct")
    error = np.mean(np.sum(np.square(rebuilt - x), axis=1))
    # PCA is the optimum: below it is impossible, and Adam comes within a percent of it.
    assert pca_codes(x, x, size=2)[2] * 0.9999 < error < pca_codes(x, x, size=2)[2] * 1.01


def test_mixed_table_scores_each_column_by_its_own_distribution():
    model = AE((4,), latent=2, hidden=(3,), likelihood="mixed", categories=(3, 2))
    x = jnp.asarray([[0.5, -1.0, 2, 1], [1.5, 0.0, 0, 0]], jnp.float32)
    params = init(model, x)
    (mean, log_var), first, second = model.apply({"params": params}, x)
    assert mean.shape == (2, 2) and first.shape == (2, 3) and second.shape == (2, 2)
    wanted = [
        np.sum(-0.5 * (np.log(2 * np.pi) + log_var[row] + (x[row, :2] - mean[row]) ** 2
                       / np.exp(log_var[row])))
        + jax.nn.log_softmax(first[row])[int(x[row, 2])]
        + jax.nn.log_softmax(second[row])[int(x[row, 3])]
        for row in range(2)
    ]  # fmt: skip
    error = model.apply({"params": params}, x, method="reconstruction_error")
    np.testing.assert_allclose(-error, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="categories"):
        init(AE((4,), likelihood="gaussian", categories=(3,)), x)


def test_corruption_reaches_the_encoder_only_and_sparsity_adds_the_code():
    model = AE((6,), latent=3, hidden=(4,))
    x = jnp.ones((5, 6))
    params, key = init(model, x), jax.random.key(2)

    def loss(**settings):
        return jax.jit(make_autoencoder_loss(model, **settings))(params, {"x": x}, key)[0]

    code = model.apply({"params": params}, x, method="encode")
    extra = loss(sparsity=0.5) - loss()
    np.testing.assert_allclose(extra, 0.5 * np.abs(code).sum(1).mean(), rtol=1e-4)
    assert loss(corruption="gaussian", corruption_rate=1.0) != loss()
    # With every input gone, the target still is the clean x.
    gone = loss(corruption="masking", corruption_rate=0.9999999)
    empty = model.apply({"params": params}, jnp.zeros((5, 6)), method="encode")
    clean = model.apply({"params": params}, x, empty, method="log_likelihood")
    np.testing.assert_allclose(gone, -clean.mean(), rtol=1e-5)


def test_unknown_settings_are_refused():
    model = AE((6,), latent=2)
    with pytest.raises((ValueError, TypeError), match="corruption"):
        make_autoencoder_loss(model, corruption="salt")
    with pytest.raises(ValueError, match="corruption_rate is 1.0"):
        make_autoencoder_loss(model, corruption="masking", corruption_rate=1.0)
    with pytest.raises(ValueError, match="'conv' with shape"):
        init(AE((6,), latent=2, architecture="conv"), jnp.ones((1, 6)))
