"""VAE: a closed form, ordered bounds, masks, devices, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxembed.losses import discretized_logistic_log_likelihood, iwae_bound
from jaxembed.metrics import importance_log_likelihood
from jaxembed.models import VAE, make_iwae_loss, make_vae_loss
from jaxembed.models.likelihood import Likelihood
from jaxembed.train import make_mesh, put_batch, put_tree

SMALL = {"latent": 2, "hidden": (6,)}


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def init(model, x):
    return jax.jit(model.init)(jax.random.key(1), x)["params"]


def test_linear_gaussian_likelihood_is_the_closed_form():
    model = VAE((5,), latent=2, hidden=(), likelihood="gaussian")
    x = 2.0 * draw(0, 40, 5) - 1.0
    params = init(model, x)
    kernel = np.float64(params["decoder"]["DenseStack_0"]["Dense_0"]["kernel"])  # [2, 5]
    covariance = kernel.T @ kernel + np.eye(5)
    wanted = scipy.stats.multivariate_normal.logpdf(x, np.zeros(5), covariance)
    got, error = importance_log_likelihood(model, params, x, jax.random.key(2), samples=1000)
    # Each within 4 of its standard errors, the mean of 40 independent ones within 3.
    assert np.all(np.abs(got - wanted) < 4 * error)
    mean_error = np.sqrt(np.sum(np.square(error))) / len(x)
    assert abs(np.mean(got - wanted)) < 3 * mean_error


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_bounds_are_ordered_over_seeds(prior):
    model = VAE((3, 3), **SMALL, prior=prior, pseudo_inputs=3)
    x = (draw(0, 30, 9) < 0.5).astype(jnp.float32)

    @jax.jit
    def bounds(seed):
        params = model.init(jax.random.fold_in(jax.random.key(3), seed), x)["params"]
        # Wide kernels: a posterior as far from the true one as to keep the bounds apart.
        params = jax.tree.map(lambda leaf: 2.0 * leaf, params)
        weights = model.apply(
            {"params": params}, x, jax.random.key(seed), 5000, method="log_weights"
        )
        levels = [
            iwae_bound(weights[:4000].reshape(-1, k, 30).swapaxes(0, 1).reshape(k, -1)).mean()
            for k in (1, 5, 50)
        ]
        return jnp.stack([*levels, iwae_bound(weights).mean()])

    for seed in range(5):
        ordered = np.asarray(bounds(seed))
        assert np.all(np.diff(ordered) > 0), ordered


def test_padding_and_devices_change_nothing():
    model = VAE((3, 3), **SMALL)
    loss_fn = jax.jit(
        jax.value_and_grad(make_vae_loss(model, beta=0.7, minimum_kl=0.01), has_aux=True)
    )
    x = (draw(0, 16, 9) < 0.5).astype(jnp.float32)
    mask = jnp.arange(16) < 11
    params, key = init(model, x), jax.random.key(5)
    (loss, metrics), gradient = loss_fn(params, {"x": x, "mask": mask}, key)
    garbage = jnp.where(mask[:, None], x, 1.0 - x)
    (other, _), same = loss_fn(params, {"x": garbage, "mask": mask}, key)
    assert loss == other and metrics["kl"][1] == 11
    jax.tree.map(np.testing.assert_array_equal, gradient, same)
    mesh = make_mesh()
    batch = put_batch(mesh, {"x": np.asarray(x), "mask": np.asarray(mask)})
    (spread, _), spread_gradient = loss_fn(put_tree(mesh, params), batch, put_tree(mesh, key))
    np.testing.assert_allclose(spread, loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        spread_gradient,
        gradient,
    )
    (empty, _), none = loss_fn(params, {"x": x, "mask": jnp.zeros(16, bool)}, key)
    assert empty == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(none))


@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": "gaussian"},
        {"likelihood": "discretized-logistic", "levels": 4},
        {"likelihood": "categorical", "levels": 3, "prior": "vamp", "pseudo_inputs": 2},
        {"likelihood": "multinomial", "input_norm": "l2", "input_dropout": 0.5,
         "activation": "tanh"},
        {"architecture": "conv", "hidden": (8,), "dtype": "bfloat16"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)  # fmt: skip
def test_every_setting_trains_and_samples_what_it_can_score(settings):
    model = VAE((3, 3), **SMALL | settings)
    x = jnp.round(draw(0, 4, 3, 3) * 3) / 3
    if settings.get("likelihood") == "categorical":
        x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 3, 3)), jnp.int32)
    params = init(model, x)
    loss, gradient = jax.jit(jax.value_and_grad(lambda params: make_vae_loss(model)(
        params, {"x": x}, jax.random.key(0))[0]))(params)  # fmt: skip
    assert np.isfinite(loss)
    # Without any path from loss to a parameter its gradient would be exactly zero.
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))

    @jax.jit
    def score_sample(params, key):
        drawn = model.apply({"params": params}, key, 4, method="sample").astype(x.dtype)
        return drawn, model.apply({"params": params}, drawn, method="reconstruction_error")

    drawn, error = score_sample(params, jax.random.key(1))
    np.testing.assert_array_equal(drawn, score_sample(params, jax.random.key(1))[0])
    assert error.shape == (4,) and np.isfinite(error).all()


def test_interpolation_ends_at_the_reconstructions():
    model = VAE((3, 3), **SMALL)
    first, second = draw(0, 2, 3, 3), draw(1, 2, 3, 3)
    variables = {"params": init(model, first)}
    walk = jax.jit(lambda *pair: model.apply(variables, *pair, 4, method="interpolate"))
    reconstruct = jax.jit(lambda x: model.apply(variables, x, method="reconstruct"))
    path, ends = walk(first, second), [reconstruct(x) for x in (first, second)]
    np.testing.assert_allclose(path[0], ends[0], rtol=1e-5)
    np.testing.assert_allclose(path[-1], ends[1], rtol=1e-5)


def test_wrong_shapes_and_settings_are_refused():
    model = VAE((3, 3), **SMALL)
    params = init(model, draw(0, 2, 3, 3))
    with pytest.raises(ValueError, match=r"examples are \(4, 4\)"):
        model.apply({"params": params}, draw(0, 2, 4, 4), method="encode")
    with pytest.raises(ValueError, match="latent|prior"):
        make_vae_loss(model.clone(prior="vamp"), minimum_kl=0.1)
    with pytest.raises(ValueError, match="doubly"):
        make_iwae_loss(model.clone(prior="vamp"), gradient="doubly-reparameterized")
    with pytest.raises(ValueError, match="with_step"):
        make_vae_loss(model, warmup_steps=3)(params, {"x": draw(0, 2, 9)}, jax.random.key(0))


def test_expected_pixels_are_the_means_of_the_discretised_logistic():
    """Against the sum over all levels of level times probability, far means included."""
    levels = 17
    mean = np.float32([-30.0, -0.2, 0.0, 0.31, 0.97, 1.4, 50.0])
    likelihood = Likelihood("discretized-logistic", (len(mean),), levels=levels)
    values = np.linspace(0, 1, levels, dtype=np.float32)
    for scale in (0.02, 0.3):
        log_scale = np.full_like(mean, np.log(scale))
        column = jnp.asarray(mean)[:, None], jnp.asarray(log_scale)[:, None]  # a pixel a row
        chances = [
            jnp.exp(
                discretized_logistic_log_likelihood(
                    jnp.full_like(column[0], value), *column, levels=levels
                )
            )
            for value in values
        ]
        wanted = sum(value * chance for value, chance in zip(values, chances, strict=True))
        found = likelihood.expected((jnp.asarray(mean), jnp.asarray(log_scale)))
        np.testing.assert_allclose(found, wanted, atol=1 / levels**2)
