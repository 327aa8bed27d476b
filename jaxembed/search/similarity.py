"""Cosine, dot product and Euclidean distance: of rows in pairs, or of every pair of rows."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def unit_rows(vectors: Float[Array, "count dim"]) -> Float[Array, "count dim"]:
    """Scales each row to length 1 in float32.

    Args:
        vectors: Rows of any length.

    Returns:
        Rows of length 1; zero rows stay zero, so that their cosine with anything is 0.
    """
    vectors = vectors.astype(jnp.float32)
    squares = jnp.sum(vectors * vectors, axis=1, keepdims=True)
    return vectors / jnp.sqrt(jnp.where(squares == 0, 1.0, squares))


def pairwise_dot(
    left: Float[Array, "left dim"], right: Float[Array, "right dim"]
) -> Float[Array, "left right"]:
    """Computes the inner product of every row of one matrix with every row of another."""
    left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST)
