"""Cosine, dot product and Euclidean distance: of paired rows, or of every row with every other.

| measure | range | unchanged by | gradient where undefined |
|---|---|---|---|
| dot | all numbers | rotating both | everywhere defined |
| cosine | -1 to 1, but for rounding | rotating both, scaling either | 0 at a zero vector |
| euclidean | 0 and above | rotating both, shifting both | 0 at distance 0 |

All compute in float32 at the highest precision of products.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LEFT_ROWS_AT_ONCE = 8


def rowwise_dot(
    left: Float[Array, "count dim"], right: Float[Array, "count dim"]
) -> Float[Array, "count"]:
    """Computes the inner product of each row with its partner."""
    return jnp.sum(left.astype(jnp.float32) * right.astype(jnp.float32), axis=1)


def rowwise_cosine(
    left: Float[Array, "count dim"], right: Float[Array, "count dim"]
) -> Float[Array, "count"]:
    """Computes the cosine of each row with its partner; 0 where one is a zero vector."""
    return rowwise_dot(unit_rows(left), unit_rows(right))


def rowwise_euclidean(
    left: Float[Array, "count dim"], right: Float[Array, "count dim"]
) -> Float[Array, "count"]:
    """Computes the square root of the sum of squared differences of each row and its partner."""
    return _length(left.astype(jnp.float32) - right.astype(jnp.float32))


def pairwise_dot(
    left: Float[Array, "left dim"], right: Float[Array, "right dim"]
) -> Float[Array, "left right"]:
    """Computes the inner product of every row of one matrix with every row of another."""
    left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST)


def pairwise_cosine(
    left: Float[Array, "left dim"], right: Float[Array, "right dim"]
) -> Float[Array, "left right"]:
    """Computes the cosine of every row with every other; 0 where one is a zero vector."""
    return pairwise_dot(unit_rows(left), unit_rows(right))


def pairwise_euclidean(
    left: Float[Array, "left dim"], right: Float[Array, "right dim"]
) -> Float[Array, "left right"]:
    """Computes the distance of every row to every other, from their differences.

    The expanded square |x|^2 - 2xy + |y|^2 loses all digits far from the origin; the price of the
    differences is that no matrix product can be used. Holds 8 * right * dim numbers at once.
    """
    left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return lax.map(lambda row: _length(right - row[None, :]), left, batch_size=LEFT_ROWS_AT_ONCE)


def unit_rows(vectors: Float[Array, "count dim"]) -> Float[Array, "count dim"]:
    """Scales each row to length 1 in float32.

    Args:
        vectors: Rows of any length; their squares may exceed float32.

    Returns:
        Rows of length 1. Zero rows stay zero, so that their cosine with anything is 0, with
        gradient 0.
    """
    vectors = vectors.astype(jnp.float32)
    largest = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=1, keepdims=True))
    is_zero = largest == 0
    scaled = vectors / jnp.where(is_zero, 1.0, largest)
    squares = jnp.sum(scaled * scaled, axis=1, keepdims=True)
    return scaled * jnp.where(is_zero, 0.0, 1.0 / jnp.sqrt(jnp.where(is_zero, 1.0, squares)))


def _length(rows):
    """Lengths of rows, with gradient 0 at a zero row."""
    squares = jnp.sum(rows * rows, axis=-1)
    is_zero = squares == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
