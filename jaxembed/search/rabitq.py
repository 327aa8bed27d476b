"""RabitqIndex: vectors in one bit a number after a rotation, with unbiased estimates of scores."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt32

from jaxembed.search.bits import pack_bits, unpack_bits
from jaxembed.search.checks import Metric
from jaxembed.search.coded import CodedIndex, mean_row
from jaxembed.search.index import register_index, static
from jaxembed.search.results import prepare_queries
from jaxembed.search.signs import orthogonal_directions


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class RabitqIndex(CodedIndex):
    """One bit a number after a random rotation, with an unbiased estimate of each score.

    The direction o of a vector from the centre is replaced by the nearest corner b of a rotated
    hypercube. For any query q the estimate of <o, q> is <b, q> / <b, o>, unbiased over the
    rotations. Queries keep their float32; the paper rounds them to 4 bits at random, which adds
    variance and on these devices saves no time. Without the vectors the scores are estimates; that
    of a distance is the root of an unbiased one of its square, 0 where that is negative.

    Attributes:
        bits: Signs of the rotated directions, packed as `pack_bits` does.
        lengths: Distances of the vectors to the centre.
        alignments: <b, o>, from 0 to 1, about .8; 1 for a vector at the centre.
        rotation: Orthogonal matrix; rows times it are rotated.
        centre: Mean of the vectors of the build.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.

    Reference: Gao and Long, 2024, https://arxiv.org/abs/2405.12497, theorem 3.2.
    """

    ROWS = ("bits", "lengths", "alignments")
    KEEPS_VECTORS = True
    bits: UInt32[Array, "size words"]
    lengths: Float[Array, "size"]
    alignments: Float[Array, "size"]
    rotation: Float[Array, "dim dim"]
    centre: Float[Array, "dim"]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.centre.shape[0]

    def estimate(
        self, queries: Num[Array | np.ndarray, "queries dim"]
    ) -> tuple[Float[Array, "queries size"], Float[Array, "queries size"]]:
        """Estimates the scores of all vectors, with their standard errors.

        Args:
            queries: Query vectors, scaled to length 1 for "cosine".

        Returns:
            Unbiased estimates, of the squared distance for "euclidean", and a standard error for
            each: |x - c| |q| sqrt((1 - a^2) / (a^2 (dim - 1))) with the alignment a, where q is the
            query, for "euclidean" twice its difference from the centre. It is an upper one: the
            part of the query along the vector adds no error.
        """
        queries, _ = prepare_queries(queries, self.metric)
        return _estimate(self, queries, 0, self.size)

    @classmethod
    def _fit(cls, rows, key):
        rotation = random_rotation(key, rows.shape[1])
        centre = jnp.asarray(mean_row(rows))
        codes = dict(zip(cls.ROWS, encode(rows, centre, rotation), strict=True))
        return codes | {"rotation": rotation, "centre": centre}

    def _encode(self, rows):
        return dict(zip(self.ROWS, encode(rows, self.centre, self.rotation), strict=True))

    def _scorer(self, queries):
        def score(first, size):
            estimates, _ = _estimate(self, queries, first, size)
            return -estimates if self.metric == "euclidean" else estimates

        return score

    def _measure(self, queries, scores, positions, k):
        if self.metric == "euclidean":
            scores = -jnp.sqrt(jnp.maximum(-scores, 0.0))
        return jnp.where(positions < 0, -jnp.inf, scores), positions


def random_rotation(key: jax.Array, dim: int) -> Float[Array, "dim dim"]:
    """Draws an orthogonal matrix from the uniform distribution over all of them."""
    return orthogonal_directions(key, dim, dim).T


@jax.jit
def encode(
    rows: Float[Array | np.ndarray, "size dim"],
    centre: Float[Array, "dim"],
    rotation: Float[Array, "dim dim"],
) -> tuple[UInt32[Array, "size words"], Float[Array, "size"], Float[Array, "size"]]:
    """Finds the bits, lengths and alignments of rows, as `RabitqIndex` describes them."""
    differences = jnp.asarray(rows) - centre[None, :]
    lengths = jnp.sqrt(jnp.sum(differences * differences, axis=1))
    rotated = jnp.matmul(differences, rotation, precision=lax.Precision.HIGHEST)
    alignments = jnp.sum(jnp.abs(rotated), axis=1) / math.sqrt(rows.shape[1])
    alignments = jnp.where(lengths > 0, alignments / jnp.where(lengths > 0, lengths, 1.0), 1.0)
    return pack_bits(rotated > 0), lengths, alignments


def _estimate(index, queries, first, size):
    """Estimates and standard errors for the vectors from the one at `first` on."""
    dim = index.dim
    bits, lengths, alignments = (
        lax.dynamic_slice_in_dim(array, first, size)
        for array in (index.bits, index.lengths, index.alignments)
    )
    is_euclidean = index.metric == "euclidean"
    shifted = queries - index.centre[None, :] if is_euclidean else queries
    rotated = jnp.matmul(shifted, index.rotation, precision=lax.Precision.HIGHEST)
    products = jnp.matmul(rotated, unpack_bits(bits, dim).T, precision=lax.Precision.HIGHEST)
    # The corner is of length 1: its numbers are 1 or -1 over sqrt(dim).
    estimates = products * (lengths / (alignments * math.sqrt(dim)))[None, :]
    spread = jnp.sqrt(jnp.maximum(1.0 - alignments**2, 0.0) / max(dim - 1, 1)) / alignments
    squares = jnp.sum(shifted * shifted, axis=1)
    errors = jnp.sqrt(squares)[:, None] * (lengths * spread)[None, :]
    if is_euclidean:
        return squares[:, None] + (lengths**2)[None, :] - 2.0 * estimates, 2.0 * errors
    centre = jnp.sum(queries * index.centre[None, :], axis=1)
    return centre[:, None] + estimates, errors
