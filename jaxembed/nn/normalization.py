"""Layer normalisation with a gradient in closed form."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def standardize(
    x: Float[Array, "*axes width"], epsilon: Float[Array, ""]
) -> Float[Array, "*axes width"]:
    """Moves and scales vectors to mean 0 and variance 1 over the last axis.

    The variance is that of differences from the mean, which stays exact where the mean is large.

    Args:
        x: Vectors, in the precision that sums are to have.
        epsilon: Added to the variance.

    Returns:
        Vectors of the same shape; 0 where all of a vector's numbers are equal.
    """
    return _standardize(x, epsilon)[0]


def _standardize(x, epsilon):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return centred * rate, rate


@standardize.defjvp
def _standardize_jvp(primals, tangents):
    # What is differentiated step by step takes two reductions more, and on CPUs two broadcasts that
    # are written out.
    y, rate = _standardize(*primals)
    change, change_epsilon = tangents
    centred = change - jnp.mean(change, axis=-1, keepdims=True)
    along = jnp.mean(y * change, axis=-1, keepdims=True) + 0.5 * rate * change_epsilon
    return y, rate * (centred - y * along)


class LayerNorm(nn.Module):
    """Standardises vectors, then scales and moves each dimension.

    Computes in float32; its parameters are those of linen's.

    Attributes:
        epsilon: Added to the variance.
        dtype: Of the result; None for that of inputs and parameters.

    Reference: Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 3.
    """

    epsilon: float
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        """Normalises over the last axis."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        dtype = self.dtype or jnp.result_type(x, scale, bias)
        rows = x.reshape(-1, width).astype(jnp.float32)
        y = standardize(rows, jnp.float32(self.epsilon)) * scale[None] + bias[None]
        return y.reshape(x.shape).astype(dtype)
