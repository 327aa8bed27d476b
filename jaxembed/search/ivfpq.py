"""IVFPQIndex: inverted lists of product codes, of what is left after the centroids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_vectors, concatenate
from jaxembed.search.codebooks import (
    Rotation,
    check_codebooks,
    check_parts,
    code_bits,
    decode_residuals,
    default_parts,
    encode,
    half_squares_of,
    pack_codes,
    rotate,
    train_codebooks,
    turned,
)
from jaxembed.search.index import register_index, static
from jaxembed.search.inverted import (
    InvertedIndex,
    assign_lists,
    calibrate_probes,
    centred,
    check_centroids,
    layout_fields,
    make_centroids,
    unpack,
)
from jaxembed.search.pages import fill, lay_out


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class IVFPQIndex(InvertedIndex):
    """Inverted lists of codes, of what is left of a vector after its centroid is taken away.

    Attributes:
        ids: As of every index.
        centroids: Of the lists, in the coordinates of the codes.
        codebooks: Codewords of each part of what is left.
        rotation: Applied to vectors first, or None.
        centre: The mean of the vectors for euclidean, otherwise zeros.
        codes: The codes in each page; see `codebooks.pack_codes`.
        half_squares: For euclidean half the square of the length of each decoded vector.
        slots: Which place in `ids` lies in each slot, -1 in empty ones.
        page_lists: The list of each page.
        first_pages: The first page of each list.
        page_counts: The number of pages of each list.
        longest: The largest of `page_counts`.
        probes: How many lists a search scans if it is not told.
        metric: As of every index.
    """

    ids: Int[Array, "size"]
    centroids: Float[Array, "lists dim"]
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
    probes: int = static()
    metric: Metric = static()

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        lists: int | None = None,
        probes: int | None = None,
        parts: int | None = None,
        bits: int = 8,
        rotation: Rotation = "none",
        centroids: ArrayLike | None = None,
        codebooks: ArrayLike | None = None,
        iterations: int = 25,
    ) -> "IVFPQIndex":
        """Clusters the vectors, trains codebooks of the residuals and encodes; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            lists: As of `IVFIndex.build`.
            probes: As of `IVFIndex.build`.
            parts: As of `PQIndex.build`.
            bits: Of a code, 4 or 8.
            rotation: "opq" trains a rotation of the residuals first.
            centroids: Of the lists, in place of k-means.
            codebooks: `[parts, 2 ** bits, width]`, in place of training.
            iterations: Of k-means in the codebooks.

        Returns:
            The index.

        Raises:
            ValueError: As of `IVFIndex.build` and `PQIndex.build`.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        key = jax.random.key(0) if key is None else key
        list_key, key = jax.random.split(key)
        parts = default_parts(rows.shape[1]) if parts is None else parts
        check_parts(parts, bits, rows.shape[1])
        given = None if centroids is None else check_centroids(centroids, centre, rows.shape[1])
        # Means, not scaled to length 1 for cosine: what is left to encode is smaller.
        found = make_centroids(rows, list_key, lists, given, 10)
        assignments = assign_lists(rows, found, metric)
        if probes is None:
            probes = calibrate_probes(rows, found, metric, assignments[:, None])
        elif probes < 1:
            raise ValueError(f"probes is {probes}: it must be at least 1.")
        residuals = rows - np.asarray(found)[assignments]
        rotated, matrix = rotate(residuals, rotation, parts, bits, key)
        if codebooks is None:
            books = train_codebooks(
                jnp.asarray(rotated), parts, bits=bits, key=key, iterations=iterations
            )
        else:
            books = check_codebooks(codebooks, rows.shape[1])
        codes = pack_codes(encode(jnp.asarray(rotated), books), code_bits(books))
        found = turned(found, matrix)
        return assemble_ivfpq(
            cls, codes, assignments, ids, found, books, matrix, centre, probes, metric
        )

    @property
    def _content(self):
        return self.codes

    def _turn(self, queries):
        return turned(queries, self.rotation)

    def _decode(self, stored, lists):
        return decode_residuals(stored, lists, self.codebooks, self.centroids)

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The decoded vectors in the order of `ids`; on the host."""
        codes, lists = self.packed(), self.assignments()
        decoded = decode_residuals(
            jnp.asarray(codes)[:, None], jnp.asarray(lists), self.codebooks, self.centroids
        )[:, 0]
        back = None if self.rotation is None else self.rotation.T
        return np.asarray(turned(decoded, back)) + np.asarray(self.centre)

    def packed(self) -> UInt8[np.ndarray, "size bytes"]:
        """The packed codes in the order of `ids`; on the host."""
        return unpack(self.slots, self.codes, self.size)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "IVFPQIndex":
        rotated = turned(jnp.asarray(rows) - self.centre[None, :], self.rotation)
        assigned = assign_lists(rotated, self.centroids, self.metric)
        codes = encode(rotated - self.centroids[assigned], self.codebooks)
        return self._again(
            concatenate([self.packed(), pack_codes(codes, code_bits(self.codebooks))]),
            concatenate([self.assignments(), assigned]),
            concatenate([self.ids, ids]),
        )

    def _keep(self, positions: np.ndarray) -> "IVFPQIndex":
        codes, lists = self.packed(), self.assignments()
        return self._again(codes[positions], lists[positions], np.asarray(self.ids)[positions])

    def _again(self, codes, lists, ids):
        fields = self.centroids, self.codebooks, self.rotation, self.centre
        return assemble_ivfpq(type(self), codes, lists, ids, *fields, self.probes, self.metric)


def assemble_ivfpq(cls, codes, assignments, ids, centroids, books, matrix, centre, probes, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(assignments, centroids.shape[0])
    stored = fill(layout, codes)
    half = None
    if metric == "euclidean":
        half = half_squares_of(stored, layout.page_lists, books, centroids, len(centre))
    return cls(
        ids=jnp.asarray(ids),
        centroids=jnp.asarray(centroids),
        codebooks=jnp.asarray(books),
        rotation=matrix,
        centre=jnp.asarray(centre),
        codes=jnp.asarray(stored),
        half_squares=half,
        **layout_fields(layout),
        probes=int(probes),
        metric=metric,
    )
