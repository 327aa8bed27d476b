"""The variational autoencoder: diagonal Gaussian posterior, declared likelihood and prior.

Mult-VAE (Liang et al., 2018, https://arxiv.org/abs/1802.05814) is a setting:
`VAE((items,), latent=200, hidden=(600,), likelihood="multinomial", activation="tanh",
input_norm="l2", input_dropout=0.5)`.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxembed.losses import gaussian_log_likelihood
from jaxembed.models.autoencoder import Codec
from jaxembed.models.likelihood import AnyArray, LikelihoodName
from jaxembed.models.priors import NormalPrior, VampPrior

Prior = Literal["normal", "vamp"]
InputNorm = Literal["none", "l2"]


class VAE(Codec):
    """A variational autoencoder.

    Randomness comes from keys passed to the methods, so every method is a pure function.

    Attributes:
        prior: Standard normal, or a mixture of the posteriors of pseudo-inputs (VampPrior).
        pseudo_inputs: Number of pseudo-inputs.
        input_norm: "l2" scales the encoder's inputs to length 1.
        input_dropout: Share of the encoder's inputs set to 0 where a `dropout_key` is given.

    Reference: Kingma & Welling, 2014, https://arxiv.org/abs/1312.6114.
    """

    likelihood: LikelihoodName = "bernoulli"
    prior: Prior = "normal"
    pseudo_inputs: int = 500
    input_norm: InputNorm = "none"
    input_dropout: float = 0.0

    def setup(self) -> None:
        """Makes the submodules."""
        for name, choices in {"prior": Prior, "input_norm": InputNorm}.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} {getattr(self, name)!r}; wanted one of {get_args(choices)}."
                )
        if not 0.0 <= self.input_dropout < 1.0:
            raise ValueError(f"input_dropout is {self.input_dropout}: give 0 or more, below 1.")
        super().setup()
        if self.prior == "normal":
            self.code_prior = NormalPrior()
            return
        if self.pseudo_inputs < 1:
            raise ValueError(f"pseudo_inputs is {self.pseudo_inputs}: give 1 or more.")
        # A categorical value is seen as indicators, as many as a decoder has logits.
        size = self.distribution.outputs
        has_no_bounds = self.likelihood in ("gaussian", "mixed")
        self.code_prior = VampPrior(self.pseudo_inputs, size, not has_no_bounds)

    @property
    def statistics(self) -> int:
        """Number of the encoder's outputs: mean and log-variance."""
        return 2 * self.latent

    def __call__(self, x: Shaped[AnyArray, "batch ..."], key: Key[Array, ""] | None = None) -> Any:
        """The likelihood's parameters at a posterior sample, or without a key at the mean."""
        mean, log_var = self.encode(x)
        if self.is_initializing():
            self.log_prior(mean)
        return self.decode(mean if key is None else _reparameterize(key, mean, log_var))

    def encode(
        self, x: Shaped[AnyArray, "batch ..."], dropout_key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log-variance of the posterior q(z | x)."""
        return self._encode_inputs(self.inputs(x), dropout_key)

    def sample_posterior(
        self,
        x: Shaped[AnyArray, "batch ..."],
        key: Key[Array, ""],
        samples: int,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "samples batch latent"], Float[Array, "samples batch"]]:
        """Reparameterised samples z of q(z | x), and log q(z | x)."""
        mean, log_var = self.encode(x, dropout_key)
        shape = (samples, *mean.shape)
        mean, log_var = jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape)
        z = _reparameterize(key, mean, log_var)
        return z, gaussian_log_likelihood(z, mean, log_var)

    def log_prior(self, z: Float[AnyArray, "*batch latent"]) -> Float[Array, "*batch"]:
        """Nats of codes under the prior."""
        return self.code_prior.log_density(z, self._encode_inputs)

    def log_joint(
        self,
        x: Shaped[AnyArray, "batch ..."],
        z: Float[AnyArray, "*batch latent"],
    ) -> Float[Array, "*batch"]:
        """Log p(x, z) at codes [batch, latent] or [samples, batch, latent], in nats."""
        return self.log_likelihood(x, z) + self.log_prior(z)

    def log_weights(
        self,
        x: Shaped[AnyArray, "batch ..."],
        key: Key[Array, ""],
        samples: int,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "samples batch"]:
        """Log p(x, z) - log q(z | x) at samples of the posterior, in nats; see `iwae_bound`."""
        z, log_posterior = self.sample_posterior(x, key, samples, dropout_key)
        return self.log_joint(x, z) - log_posterior

    def sample_codes(self, key: Key[Array, ""], count: int) -> Float[Array, "count latent"]:
        """Draws codes from the prior."""
        return self.code_prior.draw(key, count, self.latent, self._encode_inputs)

    def sample(self, key: Key[Array, ""], count: int) -> Float[Array, "count ..."]:
        """Draws new objects: codes from the prior, then data from the likelihood.

        Pictures often show the expectation instead: `expected` of `sample_codes`.
        """
        code_key, data_key = jax.random.split(key)
        parameters = self.decode(self.sample_codes(code_key, count))
        return self.distribution.draw(data_key, parameters).reshape(count, *self.shape)

    def interpolate(
        self,
        first: Shaped[AnyArray, "batch ..."],
        second: Shaped[AnyArray, "batch ..."],
        steps: int,
    ) -> Float[Array, "steps batch ..."]:
        """Expected objects on the straight line between the posterior means of two, both ends in.

        Raises:
            ValueError: If `steps` is below 2.
        """
        if steps < 2:
            raise ValueError(f"steps is {steps}: both ends need 2 or more.")
        start, end = self.encode(first)[0], self.encode(second)[0]
        shares = jnp.linspace(0.0, 1.0, steps)[:, None, None]
        return self.expected(start[None] * (1.0 - shares) + end[None] * shares)

    def reconstruct(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch ..."]:
        """The expected objects at the posterior means of `x`, of the model's shape."""
        return self.expected(self.encode(x)[0])

    def reconstruction_error(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch"]:
        """Negative log-likelihood of each example at its posterior mean, in nats."""
        return -self.log_likelihood(x, self.encode(x)[0])

    def _encode_inputs(
        self, inputs: Float[Array, "batch inputs"], dropout_key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        if self.input_norm == "l2":
            squares = jnp.sum(jnp.square(inputs), axis=-1, keepdims=True)
            inputs = inputs * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
        if dropout_key is not None and self.input_dropout > 0.0:
            is_kept = jax.random.uniform(dropout_key, inputs.shape) >= self.input_dropout
            inputs = jnp.where(is_kept, inputs / (1.0 - self.input_dropout), 0.0)
        mean, log_var = jnp.split(self.encoder(inputs), 2, axis=-1)
        return mean, log_var


def _reparameterize(
    key: Key[Array, ""], mean: Float[Array, "*shape"], log_var: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
