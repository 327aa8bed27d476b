"""BinaryIndex: vectors in one bit a number, compared by population count and rescored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from jaxembed.search.bits import differing_bits, pack_bits
from jaxembed.search.checks import Metric
from jaxembed.search.coded import CodedIndex, mean_row
from jaxembed.search.index import register_index, static
from jaxembed.search.similarity import unit_rows


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class BinaryIndex(CodedIndex):
    """The sides of the mean that a vector's numbers lie on: 1/32 of float32, and the vectors.

    Candidates are those whose bits differ least from the query's; the vectors then order them.
    Without the vectors a score for "dot" and "cosine" is the share of bits that agree minus that of
    bits that differ, from -1 to 1, and for "euclidean" the root of the number of bits that differ.

    Attributes:
        bits: Packed as `pack_bits` does; a bit is set where the number is above the centre.
        centre: Mean of the vectors of the build.
        length: Mean length of the vectors of the build, to which "dot" scales queries, so that
            candidates depend on a query's direction only.
        vectors: The vectors themselves, for rescoring, or None.
        ids: As in `Index`.
        metric: As in `Index`.
    """

    ROWS = ("bits",)
    KEEPS_VECTORS = True
    bits: UInt32[Array, "size words"]
    centre: Float[Array, "dim"]
    length: Float[Array, ""]
    vectors: Float[Array, "size dim"] | None
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.centre.shape[0]

    @classmethod
    def _fit(cls, rows, key):
        centre = jnp.asarray(mean_row(rows))
        length = np.linalg.norm(rows, axis=1).mean(dtype=np.float64).astype(np.float32)
        return {"bits": _sides(rows, centre), "centre": centre, "length": jnp.asarray(length)}

    def _encode(self, rows):
        return {"bits": _sides(rows, self.centre)}

    def _scorer(self, queries):
        if self.metric == "dot":
            queries = self.length * unit_rows(queries)
        sides = pack_bits(queries > self.centre[None, :])

        def score(first, size):
            bits = lax.dynamic_slice_in_dim(self.bits, first, size)
            # In float32: on a CPU top_k of integers sorts everything.
            return -differing_bits(sides, bits).astype(jnp.float32)

        return score

    def _measure(self, queries, scores, positions, k):
        if self.metric == "euclidean":
            nearness = -jnp.sqrt(-scores)
        else:
            nearness = 1.0 + 2.0 * scores / self.dim
        return jnp.where(positions < 0, -jnp.inf, nearness), positions


@jax.jit
def _sides(rows, centre):
    return pack_bits(jnp.asarray(rows) > centre[None, :])
