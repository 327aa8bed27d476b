"""Losses of VAE, beta-VAE and IWAE against pythae's, on the same weights and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.losses import elbo, gaussian_kl, gaussian_log_likelihood, iwae_bound
from jaxembed.models import VAE

torch = pytest.importorskip("torch")
pytest.importorskip("pythae")

pytestmark = pytest.mark.peers

PIXELS, HIDDEN, LATENT, SAMPLES = 64, 512, 5, 7  # pythae's default networks are 512 wide


def make_pair(kind, reconstruction):
    """A model of pythae and our module with its weights."""
    from pythae.models import IWAE, BetaVAE, BetaVAEConfig, IWAEConfig, VAEConfig
    from pythae.models import VAE as PythaeVAE
    from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_VAE_MLP

    torch.manual_seed(0)
    options = {"input_dim": (1, 8, 8), "latent_dim": LATENT, "reconstruction_loss": reconstruction}
    if kind == "iwae":
        config, make = IWAEConfig(number_samples=SAMPLES, **options), IWAE
    elif kind == "beta":
        config, make = BetaVAEConfig(beta=3.0, **options), BetaVAE
    else:
        config, make = VAEConfig(**options), PythaeVAE
    theirs = make(config, encoder=Encoder_VAE_MLP(config), decoder=Decoder_AE_MLP(config))

    def dense(*layers):
        kernel = np.concatenate([layer.weight.detach().numpy().T for layer in layers], axis=1)
        bias = np.concatenate([layer.bias.detach().numpy() for layer in layers])
        return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}

    encoder, decoder = theirs.encoder, theirs.decoder
    params = {
        "encoder": {
            "DenseStack_0": {
                "Dense_0": dense(encoder.layers[0][0]),
                "Dense_1": dense(encoder.embedding, encoder.log_var),
            }
        },
        "decoder": {
            "DenseStack_0": {
                "Dense_0": dense(decoder.layers[0][0]),
                "Dense_1": dense(decoder.layers[1][0]),
            }
        },
    }
    return theirs, VAE((8, 8), LATENT, (HIDDEN,)), params


@pytest.mark.parametrize("kind", ["vae", "beta"])
def test_negative_elbo_equals_pythaes(kind):
    theirs, ours, params = make_pair(kind, "bce")
    x = (np.random.default_rng(0).random((9, 8, 8)) < 0.5).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(9, LATENT)).astype(np.float32)
    theirs._sample_gauss = lambda mean, std: (mean + torch.tensor(noise) * std, torch.tensor(noise))
    output = theirs({"data": torch.tensor(x[:, None])})

    def loss(params):
        variables = {"params": params}
        mean, log_var = ours.apply(variables, x, method="encode")
        z = mean + jnp.exp(0.5 * log_var) * jnp.asarray(noise)
        log_likelihood = ours.apply(variables, x, z, method="log_likelihood")
        kl = gaussian_kl(mean, log_var)
        bound = elbo(log_likelihood, kl, beta=3.0 if kind == "beta" else 1.0)
        return -bound.mean(), (log_likelihood.mean(), kl.mean())

    (value, (log_likelihood, kl)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    for got, wanted in (
        (value, output.loss),
        (-log_likelihood, output.recon_loss),
        (kl, output.reg_loss),
    ):
        np.testing.assert_allclose(got, wanted.item(), rtol=1e-5)
    output.loss.backward()
    wanted = theirs.encoder.layers[0][0].weight.grad.numpy().T
    got = gradient["encoder"]["DenseStack_0"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reconstruction", ["bce", "mse"])
def test_iwae_loss_and_gradient_equal_pythaes(reconstruction):
    theirs, ours, params = make_pair("iwae", reconstruction)
    x = (np.random.default_rng(0).random((9, 8, 8)) < 0.5).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(9, SAMPLES, LATENT)).astype(np.float32)
    theirs._sample_gauss = lambda mean, std: (mean + torch.tensor(noise) * std, torch.tensor(noise))
    output = theirs({"data": torch.tensor(x[:, None])})

    def bound(params):
        variables = {"params": params}
        mean, log_var = (
            jnp.broadcast_to(each, (SAMPLES, 9, LATENT))
            for each in ours.apply(variables, x, method="encode")
        )
        z = mean + jnp.exp(0.5 * log_var) * jnp.asarray(noise).swapaxes(0, 1)
        if reconstruction == "bce":
            log_weights = ours.apply(variables, x, z, method="log_likelihood")
        else:  # pythae's decoder ends in a sigmoid for this one too
            means = jax.nn.sigmoid(ours.apply(variables, z, method="decode"))
            flat = jnp.broadcast_to(x.reshape(9, PIXELS), means.shape)
            log_weights = gaussian_log_likelihood(flat, means, jnp.zeros_like(means))
        log_weights += ours.apply(variables, z, method="log_prior")
        log_weights -= gaussian_log_likelihood(z, mean, log_var)
        return -iwae_bound(log_weights).mean(), log_weights

    (_, log_weights), gradient = jax.value_and_grad(bound, has_aux=True)(params)
    # pythae's value is a surrogate: the mean log-weight under the normalised weights, which has the
    # bound's gradient but is no bound; and its "mse" leaves out the Gaussian's constant.
    constant = PIXELS / 2 * np.log(2 * np.pi) if reconstruction == "mse" else 0.0
    surrogate = -(jax.nn.softmax(log_weights, axis=0) * log_weights).sum(axis=0).mean()
    np.testing.assert_allclose(surrogate - constant, output.loss.item(), rtol=1e-5)
    output.loss.backward()
    wanted = theirs.encoder.layers[0][0].weight.grad.numpy().T
    got = gradient["encoder"]["DenseStack_0"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
