"""ScannIndex: a tree of lists, score-aware codes and rescoring, as ScaNN's whole pipeline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.anisotropic import encode_anisotropic, parallel_weight, train_anisotropic
from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.codebooks import (
    check_parts,
    decode_residuals,
    half_squares_of,
    pack_codes,
    train_codebooks,
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
    search_pages,
)
from jaxembed.search.kmeans import map_rows
from jaxembed.search.pages import fill, lay_out
from jaxembed.search.results import Results, Where

NUMBERS_AT_ONCE = 1 << 21


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class ScannIndex(InvertedIndex):
    """Inverted lists of score-aware 4-bit codes whose best are scored again with the originals.

    Each vector lies in its nearest list and, unless spilling is off, in a second one whose error is
    unlike that of the first, so that a query that misses one finds the other.

    Attributes:
        ids: As of every index.
        vectors: The originals in the order of `ids`; for euclidean after `centre` was taken away.
        centroids: Of the lists.
        codebooks: Codewords of each part of what is left after the centroid.
        centre: The mean of the vectors for euclidean, otherwise zeros.
        codes: The codes in each page; see `codebooks.pack_codes`.
        half_squares: For euclidean half the square of the length of each decoded vector.
        slots: Which place in `ids` lies in each slot, -1 in empty ones.
        page_lists: The list of each page.
        first_pages: The first page of each list.
        page_counts: The number of pages of each list.
        longest: The largest of `page_counts`.
        probes: How many lists a search scans if it is not told.
        rescore: How many candidates for each result are scored again if a search is not told.
        weight: Of the parallel part of an error; see `anisotropic.parallel_weight`.
        spill: The weight of SOAR's penalty, or None where each vector lies in one list.
        metric: As of every index.
    """

    ids: Int[Array, "size"]
    vectors: Float[Array, "size dim"]
    centroids: Float[Array, "lists dim"]
    codebooks: Float[Array, "parts codewords width"]
    centre: Float[Array, "dim"]
    codes: UInt8[Array, "pages page bytes"]
    half_squares: Float[Array, "pages page"] | None
    slots: Int[Array, "pages page"]
    page_lists: Int[Array, "pages"]
    first_pages: Int[Array, "lists"]
    page_counts: Int[Array, "lists"]
    longest: int = static()
    probes: int = static()
    rescore: int = static()
    weight: float = static()
    spill: float | None = static()
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
        bits: int = 4,
        threshold: float = 0.2,
        spill: float | None = 1.0,
        rescore: int = 10,
        centroids: ArrayLike | None = None,
        iterations: int = 10,
    ) -> "ScannIndex":
        """Clusters the vectors, spills them, and trains and chooses score-aware codes.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means. For euclidean all parts of an error weigh the same.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            lists: As of `IVFIndex.build`.
            probes: As of `IVFIndex.build`.
            parts: Codes of a vector; by default one for every two dimensions.
            bits: Of a code, 4 or 8.
            threshold: Of `anisotropic.parallel_weight`; 0 makes plain product codes.
            spill: The weight, at least 0, of SOAR's penalty on second lists whose error is
                parallel to that of the first; None puts each vector into one list.
            rescore: How many candidates for each result a search scores again, at least 1.
            centroids: Of the lists, in place of k-means.
            iterations: Sweeps that make codebooks score-aware.

        Returns:
            The index.

        Raises:
            ValueError: As of `IVFIndex.build`; on wrong parts, bits, threshold, spill or rescore.

        Reference: Guo et al., 2020, https://arxiv.org/abs/1908.10396; Sun et al., SOAR, 2023,
        https://arxiv.org/abs/2404.00774, theorem 3.1.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        dim = rows.shape[1]
        parts = -(-dim // 2) if parts is None else parts
        check_parts(parts, bits, dim)
        weight = parallel_weight(dim, threshold)
        weight = 1.0 if metric == "euclidean" else weight
        if rescore < 1 or (spill is not None and spill < 0):
            raise ValueError(f"rescore is {rescore} and spill {spill}: wanted at least 1 and 0.")
        key = jax.random.key(0) if key is None else key
        list_key, book_key, tune_key = jax.random.split(key, 3)
        given = None if centroids is None else check_centroids(centroids, centre, dim)
        # Means, not scaled to length 1 for cosine: what is left to encode is smaller.
        found = make_centroids(rows, list_key, lists, given, 10)
        assignments = _assign(rows, found, metric, spill)
        if probes is None:
            probes = calibrate_probes(rows, found, metric, assignments)
        elif probes < 1:
            raise ValueError(f"probes is {probes}: it must be at least 1.")
        first = jnp.asarray(rows - np.asarray(found)[assignments[:, 0]])
        books = train_codebooks(first, parts, bits=bits, key=book_key, iterations=15)
        if weight != 1.0:
            books = train_anisotropic(
                first, jnp.asarray(rows), books, weight=weight, key=tune_key, iterations=iterations
            )
        options = {"probes": int(probes), "rescore": rescore, "weight": weight, "spill": spill}
        codes = _encode_entries(rows, assignments, found, books, weight)
        return _assemble(cls, rows, ids, assignments, codes, found, books, centre, options, metric)

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        probes: int | Int[Array, ""] | None = None,
        rescore: int | None = None,
    ) -> Results:
        """Scans the codes of the nearest lists and scores the best again with the originals.

        Args:
            queries: Query vectors. One with a NaN or infinity finds nothing.
            k: Number of results for each query, at least 1.
            where: As of `InvertedIndex.search`.
            probes: How many lists to scan; may be traced.
            rescore: How many candidates for each result are scored again, at least 1; static.

        Returns:
            Exact scores and ids, as of every index.

        Raises:
            ValueError: If k or `rescore` is below 1 or shapes disagree.
        """
        check_search(queries, k, self.dim)
        rescore = self.rescore if rescore is None else rescore
        if rescore < 1:
            raise ValueError(f"rescore is {rescore}: it must be at least 1.")
        probes = self.probes if probes is None else probes
        copies = 1 if self.spill is None else 2
        return search_pages(self, queries, where, probes, k=k, wanted=k * rescore * copies)

    @property
    def _content(self):
        return self.codes

    def _decode(self, stored, lists):
        return decode_residuals(stored, lists, self.codebooks, self.centroids)

    def _rescore(self, queries, nearness, positions, k):
        positions = jnp.where(nearness == -jnp.inf, self.size, positions)
        if self.spill is not None:
            positions = _distinct(positions, self.size, positions.shape[1] // 2)
        return _score_again(queries, self.vectors, positions, k, self.metric == "euclidean")

    def _entries(self):
        """Lists and codes of each vector, `[size, copies]` and `[size, copies, bytes]`."""
        slots = np.asarray(self.slots).reshape(-1)
        filled = np.flatnonzero(slots >= 0)
        order = filled[np.argsort(slots[filled], kind="stable")]
        lists = np.repeat(np.asarray(self.page_lists), self.slots.shape[1])[order]
        codes = np.asarray(self.codes).reshape(len(slots), -1)[order]
        return lists.reshape(self.size, -1), codes.reshape(self.size, -1, codes.shape[1])

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "ScannIndex":
        rows = rows - np.asarray(self.centre)
        assigned = _assign(rows, self.centroids, self.metric, self.spill)
        codes = _encode_entries(rows, assigned, self.centroids, self.codebooks, self.weight)
        lists, old = self._entries()
        return self._again(
            concatenate([self.vectors, rows]),
            concatenate([self.ids, ids]),
            concatenate([lists, assigned]),
            concatenate([old, codes]),
        )

    def _keep(self, positions: np.ndarray) -> "ScannIndex":
        lists, codes = self._entries()
        rows, ids = np.asarray(self.vectors)[positions], np.asarray(self.ids)[positions]
        return self._again(rows, ids, lists[positions], codes[positions])

    def _again(self, rows, ids, lists, codes):
        options = {name: getattr(self, name) for name in ("probes", "rescore", "weight", "spill")}
        fields = self.centroids, self.codebooks, self.centre, options, self.metric
        return _assemble(type(self), rows, ids, lists, codes, *fields)


def _assemble(cls, rows, ids, assignments, codes, centroids, books, centre, options, metric):
    copies = assignments.shape[1]
    owners = np.repeat(np.arange(len(rows), dtype=np.int32), copies)
    layout = lay_out(assignments.reshape(-1), centroids.shape[0], owners)
    places = lay_out(assignments.reshape(-1), centroids.shape[0])
    stored = fill(places, codes.reshape(len(owners), -1))
    half = None
    if metric == "euclidean":
        half = half_squares_of(stored, layout.page_lists, books, centroids, len(centre))
    return cls(
        ids=jnp.asarray(ids),
        vectors=jnp.asarray(rows),
        centroids=jnp.asarray(centroids),
        codebooks=books,
        centre=jnp.asarray(centre),
        codes=jnp.asarray(stored),
        half_squares=half,
        **layout_fields(layout),
        **options,
        metric=metric,
    )


def soar_assignments(
    vectors: Float[Array, "size dim"],
    centroids: Float[Array, "lists dim"],
    first: Int[Array, "size"],
    *,
    penalty: float,
) -> Int[Array, "size"]:
    """Chooses a second list for each vector whose residual is unlike that of the first.

    Args:
        vectors: Rows.
        centroids: Of at least two lists.
        first: The list that each vector lies in.
        penalty: Weight of the squared part of the second residual that is parallel to the first.

    Returns:
        Another list for each vector.

    Reference: Sun et al., SOAR, 2023, equation 5.
    """
    squares = jnp.sum(centroids * centroids, axis=1)
    count = centroids.shape[0]

    def choose(rows):
        vectors, first = rows
        residuals = vectors - centroids[first]
        lengths = jnp.sqrt(jnp.sum(residuals * residuals, axis=1, keepdims=True))
        lines = residuals / jnp.where(lengths == 0, 1.0, lengths)
        products = jnp.matmul(vectors, centroids.T, precision=lax.Precision.HIGHEST)
        along = jnp.sum(vectors * lines, axis=1, keepdims=True)
        along = along - jnp.matmul(lines, centroids.T, precision=lax.Precision.HIGHEST)
        losses = squares[None, :] - 2.0 * products + penalty * along * along
        numbers = jnp.arange(count, dtype=jnp.int32)[None, :]
        losses = jnp.where(numbers == first[:, None], jnp.inf, losses)
        return jnp.argmin(losses, axis=1).astype(jnp.int32)

    return map_rows(choose, (vectors, first), max(8, (1 << 20) // count))


def _assign(rows, centroids, metric, spill) -> np.ndarray:
    """The one or two lists of each vector."""
    first = assign_lists(rows, centroids, metric)
    if spill is None:
        return first[:, None]
    if centroids.shape[0] == 1:
        return np.stack([first, first], axis=1)
    second = _soar(jnp.asarray(rows), jnp.asarray(centroids), jnp.asarray(first), penalty=spill)
    return np.stack([first, np.asarray(second)], axis=1)


def _encode_entries(rows, assignments, centroids, books, weight) -> np.ndarray:
    """The packed codes of each vector in each of its lists, `[size, copies, bytes]`."""
    bits = 4 if books.shape[1] == 16 else 8
    codes = [
        pack_codes(
            _encode(
                jnp.asarray(rows - np.asarray(centroids)[lists]), jnp.asarray(rows), books, weight
            ),
            bits,
        )
        for lists in assignments.T
    ]
    return np.stack(codes, axis=1)


def _distinct(positions, size, count):
    """Keeps the first of equal positions, best first, and puts `size` in place of the others."""
    places = jnp.arange(positions.shape[1], dtype=jnp.int32)[None, :]
    places = jnp.broadcast_to(places, positions.shape)
    values, places = lax.sort((positions, places), dimension=1, num_keys=2)
    is_again = jnp.pad(values[:, 1:] == values[:, :-1], ((0, 0), (1, 0)))
    places = jnp.where(is_again | (values == size), positions.shape[1], places)
    places, values = lax.sort((places, values), dimension=1, num_keys=1)
    return jnp.where(places == positions.shape[1], size, values)[:, :count]


def _score_again(queries, vectors, positions, k, is_euclidean):
    """The k best of the candidates, by their exact scores; `size` stands for none."""
    size, dim = vectors.shape
    positions = jnp.sort(positions, axis=1)  # so that of equal scores the first position is kept

    def score(rows):
        queries, positions = rows
        near = vectors.at[jnp.minimum(positions, size - 1)].get(mode="promise_in_bounds")
        if is_euclidean:
            differences = near - queries[:, None, :]
            scores = -jnp.sqrt(jnp.sum(differences * differences, axis=2))
        else:
            scores = jnp.einsum("qd,qcd->qc", queries, near, precision=lax.Precision.HIGHEST)
        scores = jnp.where(positions < size, scores, -jnp.inf)
        scores, places = lax.top_k(scores, min(k, positions.shape[1]))
        return scores, jnp.take_along_axis(jnp.minimum(positions, size - 1), places, axis=1)

    at_once = max(1, NUMBERS_AT_ONCE // (positions.shape[1] * dim))
    return map_rows(score, (queries, positions), at_once)


_encode = jax.jit(
    lambda targets, vectors, books, weight: encode_anisotropic(
        targets, vectors, books, weight=weight
    ),
    static_argnums=3,
)
_soar = jax.jit(soar_assignments, static_argnames="penalty")
