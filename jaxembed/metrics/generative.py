"""How well a variational autoencoder explains data: likelihoods in nats, and its units at work.

A model here is anything with the methods `encode`, `log_joint` and `apply` of `models.VAE`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxembed.losses import gaussian_log_likelihood

AnyArray = Array | np.ndarray


# A chunk's layers stay in the cache of a core or two; the overhead of a step does not show.
CODES_AT_ONCE = 8192
VALUES_AT_ONCE = 2**19
_FLOOR = -1e30  # the log-weight of a sample that fills up a chunk


def importance_log_likelihood(
    model: Any,
    params: PyTree,
    x: Shaped[AnyArray, "n ..."],
    key: Key[Array, ""],
    *,
    samples: int,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Estimates log p(x) by importance sampling from the posterior.

    One compilation for all calls with the same model, shapes and number of samples; memory does not
    grow with samples or examples.

    Args:
        model: A `VAE`.
        params: Its parameters.
        x: Examples.
        key: Random key; an example's noise depends on its place and on `samples` only.
        samples: Importance samples an example, at least 1.
        mesh: Of `make_mesh`; spreads the examples over its axis `data`. None computes where they
            lie. A small decoder keeps one core busy, so it gains from a CPU device a core.

    Returns:
        The estimate for each example, in nats, in expectation a lower bound on log p(x) that rises
        with `samples`; and its standard error by the delta method, infinite for one sample, and too
        small where a few samples hold all the weight.

    Raises:
        ValueError: If `samples` is below 1 or there are no examples.

    Reference: Burda et al., 2016, https://arxiv.org/abs/1509.00519, section 5.
    """
    if samples < 1 or x.shape[0] < 1:
        raise ValueError(f"{samples} samples of {x.shape[0]} examples: give 1 or more of both.")
    return _importance_log_likelihood(model, params, jnp.asarray(x), key, samples, mesh)


@functools.partial(jax.jit, static_argnames=("model", "samples", "mesh"))
def _importance_log_likelihood(model, params, x, key, samples, mesh):
    if mesh is None:
        return _estimate(model, params, x, key, samples, 0)
    count, devices = x.shape[0], mesh.shape["data"]
    each = -(-count // devices)
    x = x[jnp.minimum(jnp.arange(each * devices), count - 1)]
    spread, copied = PartitionSpec("data"), PartitionSpec()

    def of_device(params, x, key):
        return _estimate(model, params, x, key, samples, each * jax.lax.axis_index("data"))

    mapped = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(copied, spread, copied),
        out_specs=(spread, spread),
        check_vma=False,
    )
    return jax.tree.map(lambda values: values[:count], mapped(params, x, key))


def _estimate(model, params, x, key, samples, first_place):
    """Estimates and errors of examples, whose places start at `first_place`."""
    variables = {"params": params}
    count = x.shape[0]
    steps = -(-samples // 128)
    size = -(-samples // steps)  # samples at once
    codes = min(CODES_AT_ONCE, VALUES_AT_ONCE * count // x.size)
    rows = min(max(codes // size, 1), count)
    chunks = -(-count // rows)
    rows = -(-count // chunks)
    places = jnp.minimum(jnp.arange(chunks * rows), count - 1).reshape(chunks, rows)

    def of_chunk(places):
        chunk = x[places]
        mean, log_var = model.apply(variables, chunk, method="encode")
        deviation = jnp.exp(0.5 * log_var)
        row_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first_place + places)
        shape = (size, *mean.shape)
        repeated = jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape)

        def add(sums, step):
            keys = jax.vmap(lambda row_key: jax.random.fold_in(row_key, step))(row_keys)
            noise = jax.vmap(lambda key: jax.random.normal(key, (size, mean.shape[1])))(keys)
            z = mean[None] + deviation[None] * noise.swapaxes(0, 1)
            log_joint = model.apply(variables, chunk, z, method="log_joint")
            log_weights = log_joint - gaussian_log_likelihood(z, *repeated)  # [size, rows]
            is_real = step * size + jnp.arange(size) < samples
            log_weights = jnp.where(is_real[:, None], log_weights, _FLOOR)
            first, second = sums
            first = jnp.logaddexp(first, jax.nn.logsumexp(log_weights, axis=0))
            second = jnp.logaddexp(second, jax.nn.logsumexp(2.0 * log_weights, axis=0))
            return (first, second), None

        start = jnp.full((rows,), _FLOOR), jnp.full((rows,), 2.0 * _FLOOR)
        return jax.lax.scan(add, start, jnp.arange(steps))[0]

    first, second = jax.lax.map(of_chunk, places)
    first, second = first.reshape(-1)[:count], second.reshape(-1)[:count]
    # n sum(w^2) / sum(w)^2 - 1 is the squared coefficient of variation.
    variation = jnp.maximum(jnp.exp(jnp.log(float(samples)) + second - 2.0 * first) - 1.0, 0.0)
    if samples == 1:
        return first, jnp.full_like(first, jnp.inf)
    return first - jnp.log(float(samples)), jnp.sqrt(variation / (samples - 1))


def bits_per_dimension(
    log_likelihood: Float[AnyArray, "n"], *, dimensions: int, levels: int | None = None
) -> Float[Array, "n"]:
    """Converts nats an example to bits a dimension.

    Args:
        log_likelihood: In nats.
        dimensions: Values of an example, channels included.
        levels: None for probabilities (Bernoulli, discretised logistic, categorical). For the
            density of pixels scaled to 0..1: the number of levels, so that the figure is that of
            the unscaled pixels, as is usual.

    Returns:
        Bits a dimension; smaller is better.

    Raises:
        ValueError: If `dimensions` is below 1 or `levels` below 2.
    """
    if dimensions < 1 or (levels is not None and levels < 2):
        raise ValueError(f"dimensions is {dimensions}, levels {levels}: give at least 1 and 2.")
    offset = 0.0 if levels is None else jnp.log2(float(levels))
    return -jnp.asarray(log_likelihood) / (dimensions * jnp.log(2.0)) + offset


def latent_activity(mean: Float[AnyArray, "n latent"]) -> Float[Array, "latent"]:
    """Computes how much each unit's posterior mean varies over the data.

    Args:
        mean: Posterior means of examples.

    Returns:
        The variance of each unit.
    """
    return jnp.var(mean, axis=0)


def active_units(mean: Float[AnyArray, "n latent"], *, threshold: float = 0.01) -> Int[Array, ""]:
    """Counts the units whose posterior mean varies over the data.

    Args:
        mean: Posterior means of examples.
        threshold: Variance above which a unit is active.

    Returns:
        The count.

    Reference: Burda et al., 2016, https://arxiv.org/abs/1509.00519, section 5.
    """
    return jnp.sum(latent_activity(mean) > threshold, dtype=jnp.int32)
