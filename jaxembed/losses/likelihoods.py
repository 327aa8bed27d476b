"""Log-densities that autoencoders declare for their data: summed over the last axis, in nats.

All are finite, with finite gradients, for parameters up to 1e4 in size. Data and parameters have
the same leading axes: broadcast where several samples share the data.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# exp is continued by its tangent from here on: e^40 times squares and sums still fits float32.
_LARGEST_EXPONENT = 40.0


def bernoulli_log_likelihood(
    x: Float[Array, "*batch pixels"],
    logits: Float[Array, "*batch pixels"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability of binary values.

    Args:
        x: 0 or 1. Values between give the usual cross-entropy, which is no log-probability.
        logits: Of the value 1.
        mask: False marks padding.

    Returns:
        Nats for each example, 0 for padding.
    """
    # The softplus without log1p, which takes longer than a small decoder: off by 6e-8 nats at most.
    softplus = jnp.maximum(logits, 0.0) + jnp.log(1.0 + jnp.exp(-jnp.abs(logits)))
    return _masked(jnp.sum(x * logits - softplus, axis=-1), mask)


def gaussian_log_likelihood(
    x: Float[Array, "*batch dim"],
    mean: Float[Array, "*batch dim"],
    log_var: Float[Array, "*batch dim"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-density of a Gaussian with diagonal covariance.

    Args:
        x: Values.
        mean: Means.
        log_var: Logarithms of the variances. Exact from -40 to 40; beyond, 1/variance is continued
            as a straight line, so that it stays finite.
        mask: False marks padding.

    Returns:
        Nats for each example, the constant included, 0 for padding.
    """
    squares = jnp.square(x - mean) * bounded_exp(-log_var)
    terms = jnp.log(2.0 * jnp.pi) + log_var + squares
    return _masked(-0.5 * jnp.sum(terms, axis=-1), mask)


def discretized_logistic_log_likelihood(
    x: Float[Array, "*batch pixels"],
    mean: Float[Array, "*batch pixels"],
    log_scale: Float[Array, "*batch pixels"],
    *,
    levels: int = 256,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability of quantised values: a logistic distribution's mass in each value's bin.

    The first and the last bin reach to infinity, so the masses sum to 1.

    Args:
        x: Values i / (levels - 1) for i from 0 to levels - 1, such as pixels / 255.
        mean: Means, on the scale of `x`.
        log_scale: Logarithms of the scales.
        levels: Number of values, at least 2.
        mask: False marks padding.

    Returns:
        Nats for each example, 0 for padding.

    Raises:
        ValueError: If `levels` is below 2.

    Reference: Kingma et al., 2016, https://arxiv.org/abs/1606.04934, appendix C.1.
    """
    if levels < 2:
        raise ValueError(f"levels is {levels}: quantised values have 2 or more.")
    half = 0.5 / (levels - 1)
    precision = bounded_exp(-log_scale)
    upper, lower = (x + half - mean) * precision, (x - half - mean) * precision
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): nothing cancels.
    width = 2.0 * half * precision
    is_narrow = width < 1e-4
    mass = jnp.where(
        is_narrow,
        jnp.log(2.0 * half) - log_scale - 0.5 * width,
        jnp.log(-jnp.expm1(-jnp.where(is_narrow, 1.0, width))),
    )
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    inner = below + above + mass
    terms = jnp.where(x < half, below, jnp.where(x > 1.0 - half, above, inner))
    return _masked(jnp.sum(terms, axis=-1), mask)


def categorical_log_likelihood(
    x: Int[Array, "*batch columns"],
    logits: Float[Array, "*batch columns classes"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability of classes, one for each column.

    Args:
        x: Classes from 0 to classes - 1.
        logits: Of each class.
        mask: False marks padding.

    Returns:
        Nats for each example, 0 for padding.
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0]
    return _masked(jnp.sum(chosen - jax.nn.logsumexp(logits, axis=-1), axis=-1), mask)


def multinomial_log_likelihood(
    counts: Float[Array, "*batch items"],
    logits: Float[Array, "*batch items"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability of how often each item was drawn, given the number of draws.

    The multinomial coefficient is included; the paper of Mult-VAE leaves it out.

    Args:
        counts: Whole numbers; 0 and 1 for a set of items.
        logits: Of each item.
        mask: False marks padding.

    Returns:
        Nats for each example, 0 for padding and for a row without items.

    Reference: Liang et al., 2018, https://arxiv.org/abs/1802.05814, eq. 2.
    """
    total = jnp.sum(counts, axis=-1)
    chosen = jnp.sum(counts * logits, axis=-1)
    log_normalizer = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    likelihood = chosen - total * log_normalizer + _log_coefficient(counts, total)
    return _masked(likelihood, mask)


def bounded_exp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exponential, continued by its tangent above 40.

    Args:
        x: Any finite numbers.

    Returns:
        exp(x), or exp(40) * (x - 39) above 40: finite, growing, and with a gradient.
    """
    return jnp.exp(jnp.minimum(x, _LARGEST_EXPONENT)) * (
        1.0 + jnp.maximum(x - _LARGEST_EXPONENT, 0.0)
    )


def _log_coefficient(counts: Array, total: Array) -> Array:
    """The logarithm of total! / (counts_1! counts_2! ...), without gradient."""
    counts, total = jax.lax.stop_gradient((counts, total))
    # All factorials of a set of items are 1: its large matrix need not be gone through.
    factorials = jax.lax.cond(
        jnp.max(counts, initial=0.0) <= 1.0,
        lambda counts: jnp.zeros_like(counts[..., 0]),
        lambda counts: jnp.sum(jax.lax.lgamma(counts + 1.0), axis=-1),
        counts,
    )
    return jax.lax.lgamma(total + 1.0) - factorials


def _masked(values: Array, mask: Array | None) -> Array:
    return values if mask is None else jnp.where(mask, values, 0.0)
