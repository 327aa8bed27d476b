"""IVFIndex: vectors in lists around k-means centroids, of which a search scans the nearest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search.exact import exact_top_k
from jaxembed.search.index import (
    Index,
    Metric,
    Results,
    Where,
    allowed,
    check_ids,
    check_search,
    check_vectors,
    concatenate,
    prepare_queries,
    register_index,
    report,
    static,
)
from jaxembed.search.inverted import Layout, fill, in_order_of_position, lay_out, scan_lists
from jaxembed.search.kmeans import kmeans, nearest_centroids

RECALL_WANTED = 0.955
CALIBRATION_QUERIES = 256
TRAINING_SAMPLE = 256  # vectors a centroid, as faiss


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class IVFIndex(Index):
    """Whole vectors in inverted lists; scores are exact, a neighbour in no probed list is missed.

    Attributes:
        ids: As of every index.
        centroids: Of the lists; for euclidean after `centre` was taken away.
        centre: The mean of the vectors for euclidean, otherwise zeros. Distances are computed
            around it.
        vectors: The rows of each page, zeros in empty slots.
        half_squares: For euclidean half the square of the length of each row, otherwise None.
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
    centre: Float[Array, "dim"]
    vectors: Float[Array, "pages page dim"]
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
        centroids: ArrayLike | None = None,
        iterations: int = 10,
    ) -> "IVFIndex":
        """Clusters the vectors and lays out their lists; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            lists: The number of lists; by default the square root of the number of vectors.
            probes: How many lists a search scans if it is not told; by default the fewest with
                which 256 of the vectors themselves find .95 of their 10 neighbours.
            centroids: Of the lists, in place of k-means.
            iterations: Of k-means.

        Returns:
            The index.

        Raises:
            ValueError: On NaN or infinite values, duplicate or negative ids, wrong shapes, or
                fewer than one list or probe.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        given = None if centroids is None else check_centroids(centroids, centre, rows.shape[1])
        spherical = metric == "cosine"
        found = make_centroids(rows, key, lists, given, iterations, spherical=spherical)
        if probes is None:
            probes = calibrate_probes(rows, found, metric)
        elif probes < 1:
            raise ValueError(f"probes is {probes}: it must be at least 1.")
        assignments = assign_lists(rows, found, metric)
        return assemble_ivf(cls, rows, assignments, ids, found, centre, probes, metric)

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        probes: int | Int[Array, ""] | None = None,
    ) -> Results:
        """Finds the k best vectors among those of the nearest lists.

        Args:
            queries: Query vectors. One with a NaN or infinity finds nothing.
            k: Number of results for each query, at least 1.
            where: As of every index.
            probes: How many lists to scan; may be traced, so that changing it compiles nothing.

        Returns:
            Scores and ids, as of every index.

        Raises:
            ValueError: If k is below 1 or shapes disagree.
        """
        check_search(queries, k, self.dim)
        probes = self.probes if probes is None else probes
        return _search(self, queries, where, probes, k=k)

    @property
    def dim(self) -> int:
        """The number of dimensions of vectors and queries."""
        return self.centroids.shape[1]

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The vectors in the order of `ids`, of length 1 for cosine; on the host."""
        return unpack(self.slots, self.vectors, self.size) + np.asarray(self.centre)

    def assignments(self) -> Int[np.ndarray, "size"]:
        """The list of each vector, in the order of `ids`; on the host."""
        return lists_of(self)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "IVFIndex":
        rows = rows - np.asarray(self.centre)
        return self._again(
            concatenate([unpack(self.slots, self.vectors, self.size), rows]),
            concatenate([lists_of(self), assign_lists(rows, self.centroids, self.metric)]),
            concatenate([self.ids, ids]),
        )

    def _keep(self, positions: np.ndarray) -> "IVFIndex":
        rows = unpack(self.slots, self.vectors, self.size)[positions]
        return self._again(rows, lists_of(self)[positions], np.asarray(self.ids)[positions])

    def _again(self, rows, lists, ids):
        fields = self.centroids, self.centre, self.probes, self.metric
        return assemble_ivf(type(self), rows, lists, ids, *fields)


def assemble_ivf(cls, rows, assignments, ids, centroids, centre, probes, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(assignments, centroids.shape[0])
    vectors = fill(layout, rows)
    half = 0.5 * (vectors * vectors).sum(axis=2) if metric == "euclidean" else None
    return cls(
        ids=jnp.asarray(ids),
        centroids=jnp.asarray(centroids),
        centre=jnp.asarray(centre),
        vectors=jnp.asarray(vectors),
        half_squares=None if half is None else jnp.asarray(half),
        **layout_fields(layout),
        probes=int(probes),
        metric=metric,
    )


@functools.partial(jax.jit, static_argnames="k")
def _search(index, queries, where, probes, *, k):
    queries, is_finite = prepare_queries(queries, index.metric)
    queries = queries - index.centre[None, :]
    is_euclidean = index.metric == "euclidean"
    nearness, slots = scan_lists(
        queries,
        coarse_nearness(queries, index.centroids, index.metric),
        jnp.asarray(probes, jnp.int32),
        layout_of(index),
        index.vectors,
        slot_offsets(index.slots, index.half_squares, allowed(where, index.ids)),
        lambda stored, lists: stored,
        k,
        is_euclidean=is_euclidean,
    )
    nearness, positions = in_order_of_position(nearness, index.slots.reshape(-1)[slots])
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def layout_fields(layout: Layout) -> dict:
    """The fields of an index that hold its layout, on the device."""
    fields = layout._asdict()
    longest = fields.pop("longest")
    return {name: jnp.asarray(value) for name, value in fields.items()} | {"longest": longest}


def layout_of(index) -> Layout:
    """The layout that an index holds in its fields."""
    return Layout(*(getattr(index, name) for name in Layout._fields))


def lists_of(index) -> Int[np.ndarray, "size"]:
    """The list of each vector of an index that keeps each in one list; on the host."""
    lists = np.broadcast_to(np.asarray(index.page_lists)[:, None], index.slots.shape)
    return unpack(index.slots, lists, index.size)


def centred(rows: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Takes the mean away for euclidean; products of far-away vectors would lose their digits."""
    if metric != "euclidean":
        return rows, np.zeros(rows.shape[1], np.float32)
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return rows - centre, centre


def check_centroids(centroids, centre, dim):
    """Checks a caller's centroids and takes the centre away."""
    centroids = np.asarray(centroids, np.float32)
    if centroids.ndim != 2 or centroids.shape[1] != dim or len(centroids) == 0:
        raise ValueError(
            f"The centroids have shape {centroids.shape}: wanted at least one row of {dim}."
        )
    return centroids - centre


def make_centroids(rows, key, lists, given, iterations, *, spherical=False):
    """Centroids of inverted lists, by k-means unless they are given."""
    if given is not None:
        return jnp.asarray(given)
    if lists is None:
        lists = max(1, round(len(rows) ** 0.5))
    if lists < 1:
        raise ValueError(f"lists is {lists}: it must be at least 1.")
    lists = min(lists, len(rows))
    return kmeans(
        jnp.asarray(rows),
        lists,
        key=jax.random.key(0) if key is None else key,
        iterations=iterations,
        spherical=spherical,
        sample=TRAINING_SAMPLE * lists,
    ).centroids


def assign_lists(rows, centroids, metric) -> np.ndarray:
    """The list of each vector: the nearest centroid, for dot and cosine by product."""
    offsets = None if metric == "euclidean" else jnp.zeros(centroids.shape[0], jnp.float32)
    return np.asarray(_assign(jnp.asarray(rows), jnp.asarray(centroids), offsets))


def coarse_nearness(
    queries: Float[Array, "queries dim"], centroids: Float[Array, "lists dim"], metric: Metric
) -> Float[Array, "queries lists"]:
    """How near each list is to each query; larger is nearer."""
    products = jnp.matmul(queries, centroids.T, precision=lax.Precision.HIGHEST)
    if metric == "euclidean":
        products = products - 0.5 * jnp.sum(centroids * centroids, axis=1)[None, :]
    return products


def slot_offsets(slots, half_squares, is_allowed):
    """What is added to a product in each slot; -inf where no vector may be found."""
    may_be_found = slots >= 0
    if is_allowed is not None:
        may_be_found &= is_allowed[jnp.maximum(slots, 0)]
    offsets = jnp.zeros(slots.shape, jnp.float32) if half_squares is None else -half_squares
    return jnp.where(may_be_found, offsets, -jnp.inf)


def unpack(slots, content, size: int) -> np.ndarray:
    """What is stored for each vector, in the order of `ids`; on the host."""
    slots, content = np.asarray(slots).reshape(-1), np.asarray(content)
    content = content.reshape(len(slots), *content.shape[2:])
    rows = np.empty((size, *content.shape[1:]), content.dtype)
    rows[slots[slots >= 0]] = content[slots >= 0]
    return rows


def calibrate_probes(rows, centroids, metric, assignments=None) -> int:
    """The fewest probes with which some of the vectors find .95 of their 10 nearest others."""
    if assignments is None:
        assignments = assign_lists(rows, centroids, metric)[:, None]
    chosen = np.linspace(0, len(rows) - 1, min(CALIBRATION_QUERIES, len(rows))).astype(np.int32)
    queries = jnp.asarray(rows[chosen])
    _, near = _near(
        queries,
        jnp.asarray(rows),
        min(10, len(rows)),
        "euclidean" if metric == "euclidean" else "dot",
        jnp.asarray(chosen)[:, None],
    )
    coarse = np.asarray(coarse_nearness(queries, centroids, metric))
    ranks = np.argsort(np.argsort(-coarse, axis=1, kind="stable"), axis=1)
    near = np.asarray(near)
    # A vector that lies in several lists is found in the nearest of them.
    needed = np.take_along_axis(ranks[:, None, :], assignments[near], axis=2).min(axis=2)
    needed = np.sort(needed[near >= 0])
    if len(needed) == 0:
        return 1
    return int(needed[min(len(needed) - 1, int(RECALL_WANTED * len(needed)))]) + 1


_assign = jax.jit(
    lambda rows, centroids, offsets: nearest_centroids(rows, centroids, offsets=offsets)[0]
)
_near = jax.jit(
    lambda queries, rows, k, metric, exclude: exact_top_k(
        queries, rows, k, metric=metric, exclude=exclude
    ),
    static_argnums=(2, 3),
)
