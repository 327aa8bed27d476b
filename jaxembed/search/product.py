"""Product quantization: PQIndex, all vectors as codes of their parts in one list."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.codebooks import (
    Rotation,
    check_codebooks,
    check_parts,
    code_bits,
    decode,
    default_parts,
    encode,
    half_squares_of,
    pack_codes,
    rotate,
    train_codebooks,
    turned,
    unpack_codes,
)
from jaxembed.search.index import register_index, static
from jaxembed.search.inverted import (
    PagedIndex,
    centred,
    layout_fields,
    search_pages,
    unpack,
)
from jaxembed.search.pages import fill, lay_out
from jaxembed.search.results import Results, Where


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class PQIndex(PagedIndex):
    """Codes of all vectors, compared with whole queries (asymmetric distances).

    Scores are those of the decoded vectors, so both they and their order are approximate.

    Attributes:
        ids: As of every index.
        codebooks: Codewords of each part.
        rotation: Applied to vectors before they are encoded, or None.
        centre: The mean of the vectors for euclidean, otherwise zeros.
        codes: The codes in each page; see `codebooks.pack_codes`.
        half_squares: For euclidean half the square of the length of each decoded vector.
        slots: Which place in `ids` lies in each slot, -1 in empty ones.
        page_lists: 0, the one list, for each page.
        first_pages: 0.
        page_counts: The number of pages.
        longest: The number of pages.
        metric: As of every index.
    """

    ids: Int[Array, "size"]
    codebooks: Float[Array, "parts codewords width"]
    rotation: Float[Array, "dim dim"] | None
    centre: Float[Array, "dim"]
    codes: UInt8[Array, "pages page bytes"]
    half_squares: Float[Array, "pages page"] | None
    slots: Int[Array, "pages page"]
    page_lists: Int[Array, "pages"]
    first_pages: Int[Array, "lists"]
    page_counts: Int[Array, "lists"]
    longest: int = static()
    metric: Metric = static()

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        parts: int | None = None,
        bits: int = 8,
        rotation: Rotation = "none",
        codebooks: ArrayLike | None = None,
        iterations: int = 25,
    ) -> "PQIndex":
        """Trains codebooks and encodes the vectors; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            parts: Codes of a vector; by default one for every two dimensions, to 128 dimensions,
                and one for every four above.
            bits: Of a code, 4 or 8.
            rotation: "opq" trains a rotation first, which helps where dimensions are correlated.
            codebooks: `[parts, 2 ** bits, width]`, in place of training.
            iterations: Of k-means.

        Returns:
            The index.

        Raises:
            ValueError: On NaN or infinite values, duplicate or negative ids, wrong shapes, parts
                or bits.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        key = jax.random.key(0) if key is None else key
        parts = default_parts(rows.shape[1]) if parts is None else parts
        check_parts(parts, bits, rows.shape[1])
        rotated, matrix = rotate(rows, rotation, parts, bits, key)
        if codebooks is None:
            books = train_codebooks(
                jnp.asarray(rotated), parts, bits=bits, key=key, iterations=iterations
            )
        else:
            books = check_codebooks(codebooks, rows.shape[1])
        codes = pack_codes(encode(jnp.asarray(rotated), books), code_bits(books))
        return assemble_pq(cls, codes, ids, books, matrix, centre, metric)

    def search(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> Results:
        """Finds the k vectors whose decoded form is best; as of every index."""
        check_search(queries, k, self.dim)
        return search_pages(self, queries, where, 1, k=k, wanted=k)

    @property
    def _content(self):
        return self.codes

    def _turn(self, queries):
        return turned(queries, self.rotation)

    def _decode(self, stored, lists):
        return decode(unpack_codes(stored, self.codebooks), self.codebooks, self.dim)

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The decoded vectors in the order of `ids`; on the host."""
        codes = jnp.asarray(self.packed())
        decoded = decode(unpack_codes(codes, self.codebooks), self.codebooks, self.dim)
        back = None if self.rotation is None else self.rotation.T
        return np.asarray(turned(decoded, back)) + np.asarray(self.centre)

    def packed(self) -> UInt8[np.ndarray, "size bytes"]:
        """The packed codes in the order of `ids`; on the host."""
        return unpack(self.slots, self.codes, self.size)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "PQIndex":
        rotated = turned(jnp.asarray(rows) - self.centre[None, :], self.rotation)
        codes = pack_codes(encode(rotated, self.codebooks), code_bits(self.codebooks))
        return self._again(concatenate([self.packed(), codes]), concatenate([self.ids, ids]))

    def _keep(self, positions: np.ndarray) -> "PQIndex":
        return self._again(self.packed()[positions], np.asarray(self.ids)[positions])

    def _again(self, codes, ids):
        return assemble_pq(
            type(self), codes, ids, self.codebooks, self.rotation, self.centre, self.metric
        )


def assemble_pq(cls, codes, ids, books, matrix, centre, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(np.zeros(len(codes), np.int32), 1)
    stored = fill(layout, codes)
    half = None
    if metric == "euclidean":
        half = half_squares_of(stored, layout.page_lists, books, None, len(centre))
    return cls(
        ids=jnp.asarray(ids),
        codebooks=jnp.asarray(books),
        rotation=matrix,
        centre=jnp.asarray(centre),
        codes=jnp.asarray(stored),
        half_squares=half,
        **layout_fields(layout),
        metric=metric,
    )
