"""Random projections: Johnson-Lindenstrauss by signs, and feature hashing of sparse features."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Float32, UInt32

from jaxembed.search.integer_hash import AnyArray, hash_items, is_host, random_signs, to_range


def projected_dim(count: int, *, distortion: float) -> int:
    """States how many dimensions keep all distances among some points.

    Args:
        count: Number of points, at least 2.
        distortion: Largest relative change of a squared distance, between 0 and 1.

    Returns:
        Dimensions at which a random projection keeps it with probability above 0 at once for all
        pairs, whatever the dimension before.

    Raises:
        ValueError: If an argument is out of range.

    Reference: Dasgupta & Gupta, "An elementary proof of a theorem of Johnson and Lindenstrauss",
    2003, theorem 2.1; Achlioptas, "Database-friendly random projections", 2003, for signs.
    """
    if count < 2 or not 0 < distortion < 1:
        raise ValueError(
            f"count {count} must be at least 2, distortion {distortion} within 0 to 1."
        )
    return math.ceil(4 * math.log(count) / (distortion**2 / 2 - distortion**3 / 3))


def sign_matrix(
    dim: int, width: int, *, seed: int = 0, nonzero: int = 1
) -> Float32[np.ndarray, "dim width"]:
    """Makes the matrix of a random projection, entry by entry from a hash of its place.

    So it need not be stored, and a matrix of more columns repeats the first ones but for scale.

    Args:
        dim: Dimensions before.
        width: Dimensions after.
        seed: Chooses the matrix.
        nonzero: One entry in so many is not 0: 1 is the densest, 3 and sqrt(dim) are usual.

    Returns:
        Entries 0 and +-sqrt(nonzero / width): the expected square of a projected vector's length is
        that of the vector, with a relative standard deviation of at most
        sqrt(2 / width) for nonzero up to 3.

    Raises:
        ValueError: If a number is below 1.

    Reference: Achlioptas 2003, eq. 1 and 2 (nonzero 1 and 3); Li, Hastie & Church, "Very sparse
    random projections", 2006.
    """
    if min(dim, width, nonzero) < 1:
        raise ValueError(f"dim {dim}, width {width} and nonzero {nonzero} must be at least 1.")
    places = np.indices((dim, width), np.uint32).transpose(1, 2, 0)  # [dim, width, 2]
    signs = random_signs(hash_items(places, seed=seed))
    is_kept = to_range(hash_items(places, seed=seed, stream=1), nonzero) == 0
    return np.where(is_kept, signs, 0).astype(np.float32) * np.float32(math.sqrt(nonzero / width))


def project(
    vectors: Float[AnyArray, "*batch dim"], width: int, *, seed: int = 0, nonzero: int = 1
) -> Float32[AnyArray, "*batch width"]:
    """Projects vectors to fewer dimensions, keeping lengths, distances and products on average.

    Args:
        vectors: Vectors.
        width: Dimensions wanted; see `projected_dim`.
        seed: Chooses the projection; only vectors of one projection can be compared.
        nonzero: As in `sign_matrix`.

    Returns:
        The projected vectors; on the host for NumPy arrays. The matrix is the same everywhere, the
        sums may differ by rounding.

    Raises:
        ValueError: As `sign_matrix`.
    """
    matrix = sign_matrix(vectors.shape[-1], width, seed=seed, nonzero=nonzero)
    if is_host(vectors):
        return vectors.astype(np.float32) @ matrix
    product = jnp.matmul(vectors.astype(jnp.float32), matrix, precision=lax.Precision.HIGHEST)
    return product


def hash_features(
    features: UInt32[AnyArray, "batch features words"],
    values: Float[AnyArray, "batch values"],
    width: int,
    *,
    seed: int = 0,
) -> Float32[AnyArray, "batch width"]:
    """Turns sparse features into dense vectors without a vocabulary.

    Each feature adds its value, with a sign, to one place, both from a hash of the feature. Inner
    products of hashed vectors are unbiased estimates of those of the sparse ones, with a variance
    of at most `(|x|^2 |y|^2 + <x, y>^2) / width`.

    Args:
        features: Names of features as rows of words, see `words_of`; they may repeat.
        values: Their values; 0 for padding.
        width: Dimensions wanted.
        seed: Chooses places and signs; only vectors of one seed can be compared.

    Returns:
        The vectors; on the host for NumPy arrays. Sums may differ there by rounding.

    Raises:
        ValueError: If the width is out of range or shapes disagree.

    Reference: Weinberger et al., "Feature hashing for large scale multitask learning",
    https://arxiv.org/abs/0902.2206, eq. 2 and lemma 2.
    """
    if features.shape[:2] != values.shape:
        raise ValueError(f"Features {features.shape} for values {values.shape}: give a value each.")
    places = to_range(hash_items(features, seed=seed), width)
    signs = random_signs(hash_items(features, seed=seed, stream=1)).astype(np.float32)
    signed, rows = signs * values.astype(np.float32), np.arange(len(values))[:, None]
    if is_host(features, values):
        vectors = np.zeros((len(values), width), np.float32)
        np.add.at(vectors, (rows, places), signed)
        return vectors
    return jnp.zeros((len(values), width), jnp.float32).at[rows, places].add(signed)
