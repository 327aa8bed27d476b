"""Terms and bounds of variational inference, unreduced, in nats.

Sums run over dimensions, never means; what is averaged over examples is the caller's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxembed.losses.likelihoods import bounded_exp

LogWeightsFn = Callable[..., Float[Array, "samples batch"]]


def gaussian_kl(
    mean: Float[Array, "batch dim"],
    log_var: Float[Array, "batch dim"],
    *,
    mask: Bool[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Divergence KL(q || p) of a diagonal Gaussian q from the standard normal p.

    Args:
        mean: Means of q.
        log_var: Logarithms of q's variances. Exact up to 40, finite beyond, see `bounded_exp`.
        mask: False marks padding.

    Returns:
        Nats for each example, summed over dimensions, 0 for padding.

    Raises:
        ValueError: If the shapes differ.

    Reference: Kingma & Welling, 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    return _masked(jnp.sum(gaussian_kl_per_dimension(mean, log_var), axis=-1), mask)


def gaussian_kl_per_dimension(
    mean: Float[Array, "batch dim"], log_var: Float[Array, "batch dim"]
) -> Float[Array, "batch dim"]:
    """The terms of `gaussian_kl`, which `free_bits` and figures take apart.

    Args:
        mean: Means of q.
        log_var: Logarithms of q's variances.

    Returns:
        Nats for each example and dimension, 0 or more.

    Raises:
        ValueError: If the shapes differ.
    """
    if mean.shape != log_var.shape:
        # They would broadcast to a plausible but wrong value.
        raise ValueError(f"mean is {mean.shape} but log_var {log_var.shape}: they must be alike.")
    return 0.5 * (jnp.square(mean) + (bounded_exp(log_var) - 1.0 - log_var))


def monte_carlo_kl(
    log_posterior: Float[Array, "samples batch"],
    log_prior: Float[Array, "samples batch"],
    *,
    mask: Bool[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Estimates KL(q || p) from samples of q, for a prior without a closed form.

    Args:
        log_posterior: log q(z) of samples z of q.
        log_prior: log p(z) of the same samples.
        mask: False marks padding.

    Returns:
        Nats for each example: the mean over samples, unbiased, so it may be negative.

    Raises:
        ValueError: If the shapes differ.
    """
    if log_posterior.shape != log_prior.shape:
        raise ValueError(
            f"log_posterior is {log_posterior.shape} but log_prior {log_prior.shape}: they must "
            "be of the same samples."
        )
    return _masked(jnp.mean(log_posterior - log_prior, axis=0), mask)


def free_bits(
    kl_per_dimension: Float[Array, "batch dim"],
    *,
    minimum: float | Float[Array, ""],
    mask: Bool[Array, "batch"] | None = None,
) -> Float[Array, "batch"]:
    """Replaces a dimension's divergence by a constant while its mean over the batch is below it.

    A dimension then costs nothing until it carries `minimum` nats, so it is not given up early.

    Args:
        kl_per_dimension: Terms of the divergence, see `gaussian_kl_per_dimension`.
        minimum: Nats a dimension, 0 or more.
        mask: False marks padding, which does not count in the mean.

    Returns:
        Nats for each example, 0 for padding; their mean is the paper's sum of max(minimum, mean).

    Reference: Kingma et al., 2016, https://arxiv.org/abs/1606.04934, eq. 15.
    """
    if mask is None:
        means = jnp.mean(kl_per_dimension, axis=0, keepdims=True)
    else:
        kept = jnp.where(mask[:, None], kl_per_dimension, 0.0)
        count = jnp.maximum(jnp.sum(mask.astype(kept.dtype)), 1.0)
        means = jnp.sum(kept, axis=0, keepdims=True) / count
    terms = jnp.where(means > minimum, kl_per_dimension, minimum)
    return _masked(jnp.sum(terms, axis=-1), mask)


def beta_schedule(
    step: Int[Array, ""] | int, *, warmup_steps: int, beta: float | Float[Array, ""] = 1.0
) -> Float[Array, ""]:
    """Weight of the divergence that rises linearly from 0.

    Args:
        step: Number of steps done.
        warmup_steps: Step at which `beta` is reached; 0 starts with it.
        beta: The weight at the end.

    Returns:
        The weight for this step.

    Raises:
        ValueError: If `warmup_steps` is negative.

    Reference: Bowman et al., 2016, https://arxiv.org/abs/1511.06349, section 3.1.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps is {warmup_steps}: give 0 or more.")
    done = jnp.asarray(step, jnp.float32) / max(warmup_steps, 1)
    share = jnp.minimum(done, 1.0) if warmup_steps else jnp.ones_like(done)
    return share * beta


def elbo(
    log_likelihood: Float[Array, "batch"],
    kl: Float[Array, "batch"],
    *,
    beta: float | Float[Array, ""] = 1.0,
) -> Float[Array, "batch"]:
    """Evidence lower bound, for `beta` 1 a bound on log p(x).

    Args:
        log_likelihood: log p(x | z) at a sample z of the posterior, or its mean over several.
        kl: Divergence of the posterior from the prior.
        beta: Weight of the divergence; above 1 the code is pressed towards the prior.

    Returns:
        Nats for each example. To be maximised.

    Raises:
        ValueError: If the shapes differ.

    Reference: Kingma & Welling, 2014, https://arxiv.org/abs/1312.6114, eq. 3; Higgins et al., 2017,
    beta-VAE, eq. 4.
    """
    if log_likelihood.shape != kl.shape:
        raise ValueError(f"log_likelihood is {log_likelihood.shape} but kl {kl.shape}.")
    return log_likelihood - beta * kl


def iwae_bound(
    log_weights: Float[Array, "samples batch"], *, mask: Bool[Array, "batch"] | None = None
) -> Float[Array, "batch"]:
    """Importance-weighted lower bound on log p(x): the logarithm of the mean weight.

    Args:
        log_weights: log p(x, z) - log q(z | x) at samples z of q.
        mask: False marks padding.

    Returns:
        Nats for each example, 0 for padding. The more samples, the tighter in expectation.

    Reference: Burda et al., 2016, https://arxiv.org/abs/1509.00519, eq. 8.
    """
    bound = jax.nn.logsumexp(log_weights, axis=0) - jnp.log(float(log_weights.shape[0]))
    return _masked(bound, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def doubly_reparameterized_bound(
    log_weights_fn: LogWeightsFn,
    params: PyTree,
    latents: Float[Array, "samples batch dim"],
    others: PyTree,
) -> Float[Array, "batch"]:
    """`iwae_bound` whose gradient in the encoder is the doubly reparameterised one.

    The plain gradient's signal in the encoder vanishes as samples grow; this one's does not. Both
    have the same expectation.

    Args:
        log_weights_fn: Pure, from `params`, `latents` and `others` to the logarithms of the weights
            [samples, batch]. It must not close over traced arrays.
        params: Of the generative model: their gradient is that of `iwae_bound`.
        latents: Samples of the posterior, reparameterised: the encoder's gradient goes through
            them, and through nothing else.
        others: What else the weights depend on, such as x, and mean and log-variance of the
            posterior; without gradient.

    Returns:
        Nats for each example.

    Reference: Tucker et al., 2018, https://arxiv.org/abs/1810.04152, eq. 8.
    """
    return iwae_bound(log_weights_fn(params, latents, others))


def _bound_forward(log_weights_fn, params, latents, others):
    def weigh(params, latents):
        return log_weights_fn(params, latents, others)

    log_weights, pull_back = jax.vjp(weigh, params, latents)
    normalized = jax.nn.softmax(log_weights, axis=0)
    zeros = jax.tree.map(_zero_cotangent, others)
    return iwae_bound(log_weights), (pull_back, normalized, zeros)


def _bound_backward(log_weights_fn, residuals, cotangent):
    pull_back, normalized, zeros = residuals
    params, latents = pull_back(normalized * cotangent[None, :])
    # The second factor of the squared weights in eq. 8.
    return params, latents * normalized[..., None], zeros


doubly_reparameterized_bound.defvjp(_bound_forward, _bound_backward)


def _zero_cotangent(leaf: Array) -> Array:
    is_real = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jnp.zeros(leaf.shape, leaf.dtype if is_real else jax.dtypes.float0)


def _masked(values: Array, mask: Array | None) -> Array:
    return values if mask is None else jnp.where(mask, values, 0.0)
