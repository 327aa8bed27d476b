"""Losses of `VAE`: the ELBO with its variants, and the importance-weighted bound."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

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
from jaxembed.models.autoencoder import Metrics, mean_loss
from jaxembed.models.likelihood import Binarization, binarize
from jaxembed.models.vae import VAE

Gradient = Literal["plain", "doubly-reparameterized"]


@dataclasses.dataclass(frozen=True)
class VariationalBound:
    """The bound on the likelihood that a VAE is trained on.

    Attributes:
        bound: The ELBO, or the importance-weighted bound of Burda et al., which takes `samples` and
            `gradient` alone.
        beta: Weight of the divergence.
        warmup: Share of all steps in which that weight rises from 0.
        free_nats: Nats a dimension that are free, see `free_bits`.
        samples: Posterior samples an example.
        gradient: How the encoder's gradient of the importance-weighted bound is estimated.
    """

    bound: Literal["elbo", "iwae"] = "elbo"
    beta: float = 1.0
    warmup: float = 0.0
    free_nats: float = 0.0
    samples: int = 1
    gradient: Gradient = "plain"

    def __post_init__(self) -> None:
        if not (self.beta >= 0.0 and self.free_nats >= 0.0 and 0.0 <= self.warmup <= 1.0):
            raise ValueError(
                f"beta is {self.beta}, free_nats {self.free_nats}, warmup {self.warmup}: give 0 or "
                "more, and 1 at most for warmup."
            )
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: give 1 or more.")
        is_plain = (self.beta, self.warmup, self.free_nats) == (1.0, 0.0, 0.0)
        if self.bound == "iwae" and not is_plain:
            raise ValueError(
                "bound 'iwae' has no divergence to weigh: leave beta, warmup and free_nats out, or "
                "use bound 'elbo'."
            )


def make_vae_loss(
    model: VAE,
    *,
    beta: float | Float[Array, ""] = 1.0,
    warmup_steps: int = 0,
    minimum_kl: float = 0.0,
    samples: int = 1,
    binarization: Binarization = "none",
):
    """Makes the negative ELBO.

    Args:
        model: The model.
        beta: Weight of the divergence.
        warmup_steps: The weight rises from 0 over so many steps; batches then hold `step`, which
            `train.with_step` adds.
        minimum_kl: Nats a dimension that are free, see `free_bits`; for the normal prior.
        samples: Posterior samples an example.
        binarization: "dynamic" draws pixels anew each time.

    Returns:
        A LossFn `(params, batch, key) -> (loss, metrics)` over batches with `x` and, where rows are
        padding, `mask`. Metrics, in nats: loss, elbo (with beta 1), log_likelihood, kl.

    Raises:
        ValueError: If a setting is out of range.
    """
    if samples < 1 or warmup_steps < 0 or minimum_kl < 0.0:
        raise ValueError(
            f"samples is {samples}, warmup_steps {warmup_steps}, minimum_kl {minimum_kl}: give 1, "
            "0 and 0 or more."
        )
    if minimum_kl and model.prior != "normal":
        raise ValueError(
            f"minimum_kl with prior {model.prior!r}: its divergence has no terms a dimension; "
            "use prior='normal', or minimum_kl=0."
        )

    def loss_fn(
        params: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        binarize_key, dropout_key, key = jax.random.split(key, 3)
        mask = batch.get("mask")
        x = binarize(batch["x"], binarize_key, binarization)
        variables = {"params": params}
        mean, log_var = model.apply(variables, x, dropout_key, method="encode")
        z, log_posterior = _draw(mean, log_var, key, samples)
        log_likelihoods = model.apply(variables, x, z, method="log_likelihood")
        log_likelihood = jnp.mean(log_likelihoods, axis=0)
        if model.prior == "normal":
            kl = gaussian_kl(mean, log_var)
        else:
            log_prior = model.apply(variables, z, method="log_prior")
            kl = monte_carlo_kl(log_posterior, log_prior)
        penalty = kl
        if minimum_kl:
            terms = gaussian_kl_per_dimension(mean, log_var)
            penalty = free_bits(terms, minimum=minimum_kl, mask=mask)
        weight = beta
        if warmup_steps:
            weight = beta_schedule(_step_of(batch), warmup_steps=warmup_steps, beta=beta)
        bound = elbo(log_likelihood, penalty, beta=weight)
        quantities = {
            "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl
        }  # fmt: skip
        return mean_loss(-bound, quantities, mask)

    return loss_fn


def make_iwae_loss(
    model: VAE,
    *,
    samples: int = 50,
    gradient: Gradient = "plain",
    binarization: Binarization = "none",
):
    """Makes the negative importance-weighted bound.

    Args:
        model: The model.
        samples: Importance samples an example.
        gradient: How the encoder's gradient is estimated, see `doubly_reparameterized_bound`.
        binarization: "dynamic" draws pixels anew each time.

    Returns:
        A LossFn as `make_vae_loss` makes. Metrics, in nats: loss and bound.

    Raises:
        ValueError: If a setting is unknown or out of range, or the prior is learned through the
            encoder, which has no doubly reparameterised gradient here.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}: give 1 or more.")
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient {gradient!r}; wanted one of {get_args(Gradient)}.")
    if gradient == "doubly-reparameterized" and model.prior != "normal":
        raise ValueError(
            f"gradient {gradient!r} with prior {model.prior!r}: the encoder is part of that prior, "
            "so its gradient does not only go through the samples; use 'plain'."
        )

    def weigh(params, z, others):
        x, mean, log_var = others
        log_posterior = _log_posterior(z, mean, log_var)
        return model.apply({"params": params}, x, z, method="log_joint") - log_posterior

    def loss_fn(
        params: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        binarize_key, dropout_key, key = jax.random.split(key, 3)
        x = binarize(batch["x"], binarize_key, binarization)
        mean, log_var = model.apply({"params": params}, x, dropout_key, method="encode")
        z, _ = _draw(mean, log_var, key, samples)
        others = (x, mean, log_var)
        if gradient == "plain":
            bound = iwae_bound(weigh(params, z, others))
        else:
            bound = doubly_reparameterized_bound(weigh, params, z, others)
        return mean_loss(-bound, {"bound": bound}, batch.get("mask"))

    return loss_fn


def _draw(mean: Array, log_var: Array, key: Array, samples: int) -> tuple[Array, Array]:
    """Reparameterised samples [samples, batch, latent] and their log q(z | x)."""
    shape = (samples, *mean.shape)
    noise = jax.random.normal(key, shape)
    z = mean[None] + jnp.exp(0.5 * log_var)[None] * noise
    return z, _log_posterior(z, mean, log_var)


def _log_posterior(z: Array, mean: Array, log_var: Array) -> Array:
    return gaussian_log_likelihood(
        z, jnp.broadcast_to(mean, z.shape), jnp.broadcast_to(log_var, z.shape)
    )


def _step_of(batch: dict[str, Any]) -> Any:
    """The number of the step, which a schedule needs."""
    if "step" not in batch:
        raise ValueError("the batch has no `step`: wrap the step in `train.with_step`.")
    return batch["step"]
