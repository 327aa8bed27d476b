"""Priors of a variational autoencoder's codes."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxembed.losses import gaussian_log_likelihood

EncodeFn = Callable[[Array], tuple[Array, Array]]


class NormalPrior(nn.Module):
    """The standard normal distribution; it has no parameters."""

    def log_density(
        self, z: Float[Array, "*batch latent"], encode: EncodeFn
    ) -> Float[Array, "*batch"]:
        """Nats of each code."""
        return gaussian_log_likelihood(z, jnp.zeros_like(z), jnp.zeros_like(z))

    def draw(
        self, key: Key[Array, ""], count: int, latent: int, encode: EncodeFn
    ) -> Float[Array, "count latent"]:
        """Draws codes."""
        return jax.random.normal(key, (count, latent))


class VampPrior(nn.Module):
    """An equal mixture of the posteriors of learned pseudo-inputs.

    Attributes:
        count: Number of pseudo-inputs.
        size: Length of an encoder's input.
        is_unit_interval: Whether pseudo-inputs are cut to 0..1, as pixels are.

    Reference: Tomczak & Welling, 2018, https://arxiv.org/abs/1705.07120, eq. 9.
    """

    count: int
    size: int
    is_unit_interval: bool

    def setup(self) -> None:
        """Makes the submodules."""
        start = nn.initializers.uniform(1.0) if self.is_unit_interval else nn.initializers.normal(1)
        self.raw = self.param("pseudo_inputs", start, (self.count, self.size))

    def pseudo_inputs(self) -> Float[Array, "count size"]:
        """What stands for the data."""
        return jnp.clip(self.raw, 0.0, 1.0) if self.is_unit_interval else self.raw

    def log_density(
        self, z: Float[Array, "*batch latent"], encode: EncodeFn
    ) -> Float[Array, "*batch"]:
        """Nats of each code; `encode` gives mean and log-variance of inputs."""
        mean, log_var = encode(self.pseudo_inputs())
        shape = (*z.shape[:-1], *mean.shape)  # [*batch, count, latent], never stored
        densities = gaussian_log_likelihood(
            jnp.broadcast_to(z[..., None, :], shape),
            jnp.broadcast_to(mean, shape),
            jnp.broadcast_to(log_var, shape),
        )
        return jax.nn.logsumexp(densities, axis=-1) - jnp.log(float(self.count))

    def draw(
        self, key: Key[Array, ""], count: int, latent: int, encode: EncodeFn
    ) -> Float[Array, "count latent"]:
        """Draws codes."""
        choice_key, noise_key = jax.random.split(key)
        mean, log_var = encode(self.pseudo_inputs())
        chosen = jax.random.randint(choice_key, (count,), 0, self.count)
        noise = jax.random.normal(noise_key, (count, latent))
        return mean[chosen] + jnp.exp(0.5 * log_var[chosen]) * noise
