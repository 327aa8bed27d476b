"""What indices of inverted lists share: their centroids, pages, probes and search."""

import abc
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from jaxembed.search.checks import Metric, check_search
from jaxembed.search.exact import exact_top_k
from jaxembed.search.index import Index
from jaxembed.search.kmeans import kmeans, nearest_centroids
from jaxembed.search.pages import Layout, in_order_of_position, scan_lists
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report

RECALL_WANTED = 0.955
CALIBRATION_QUERIES = 256
TRAINING_SAMPLE = 256  # vectors a centroid, as faiss


class PagedIndex(Index):
    """Vectors or codes in the pages of lists; `pages.Layout` says where.

    A subclass brings `_content`, `_turn` and `_decode`, and `_coarse` where it has lists to choose
    from.
    """

    centre: Float[Array, "dim"]
    half_squares: Float[Array, "pages page"] | None
    slots: Int[Array, "pages page"]
    page_lists: Int[Array, "pages"]
    first_pages: Int[Array, "lists"]
    page_counts: Int[Array, "lists"]
    longest: int

    @property
    def dim(self) -> int:
        """The number of dimensions of vectors and queries."""
        return self.centre.shape[0]

    @property
    @abc.abstractmethod
    def _content(self) -> Array:
        """What is stored for each slot, `[pages, page, width]`."""

    def _turn(self, queries):
        """Brings queries around the centre into the coordinates of what is stored."""
        return queries

    def _coarse(self, queries) -> Float[Array, "queries lists"]:
        """How near each list is to each query."""
        return jnp.zeros((queries.shape[0], self.first_pages.shape[0]), jnp.float32)

    @abc.abstractmethod
    def _decode(self, stored, lists):
        """Vectors of stored rows `[n, rows, width]` of some lists `[n]`."""

    def _scan(self, queries, where, probes, k):
        """Nearness and places in `ids` of the k best in the lists that a search probes."""
        is_allowed = allowed(where, self.ids)
        coarse = self._coarse(queries)
        if is_allowed is not None:
            coarse, probes = among_allowed(self, coarse, probes, is_allowed)
        nearness, slots = scan_lists(
            queries,
            coarse,
            probes,
            Layout(*(getattr(self, name) for name in Layout._fields)),
            self._content,
            slot_offsets(self.slots, self.half_squares, is_allowed),
            self._decode,
            k,
            is_euclidean=self.metric == "euclidean",
        )
        return nearness, self.slots.reshape(-1)[slots]

    def _rescore(self, queries, nearness, positions, k):
        """The results of a scan, where a subclass does not score them again."""
        return nearness, positions


class InvertedIndex(PagedIndex):
    """Lists around centroids, of which a search scans the nearest.

    Attributes:
        centroids: Of the lists, in the coordinates of what is stored.
        probes: How many lists a search scans if it is not told.
    """

    centroids: Float[Array, "lists dim"]
    probes: int

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        probes: int | Int[Array, ""] | None = None,
    ) -> Results:
        """Finds the k best of the nearest lists, by what these store.

        Args:
            queries: Query vectors. One with a NaN or infinity finds nothing.
            k: Number of results for each query, at least 1.
            where: As of every index. Lists that hold no vector that may be found are left out; of
                the others more are scanned, since neighbours are farther apart: `probes` divided by
                share^0.4, for the share of their vectors that may be found.
            probes: How many lists to scan; may be traced, so that changing it compiles nothing.

        Returns:
            Scores and ids, as of every index.

        Raises:
            ValueError: If k is below 1 or shapes disagree.
        """
        check_search(queries, k, self.dim)
        probes = self.probes if probes is None else probes
        return search_pages(self, queries, where, probes, k=k, wanted=k)

    def assignments(self) -> Int[np.ndarray, "size"]:
        """A list that holds each vector, in the order of `ids`; on the host."""
        lists = np.broadcast_to(np.asarray(self.page_lists)[:, None], self.slots.shape)
        return unpack(self.slots, lists, self.size)

    def _coarse(self, queries):
        return coarse_nearness(queries, self.centroids, self.metric)


@functools.partial(jax.jit, static_argnames=("k", "wanted"))
def search_pages(index, queries, where, probes, *, k, wanted):
    """What the `search` of an index of pages returns; `wanted` candidates are scanned for."""
    queries, is_finite = prepare_queries(queries, index.metric)
    queries = index._turn(queries - index.centre[None, :])
    nearness, positions = index._scan(queries, where, jnp.asarray(probes, jnp.int32), wanted)
    nearness, positions = index._rescore(queries, nearness, positions, k)
    nearness, positions = in_order_of_position(nearness, positions)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def among_allowed(
    index: PagedIndex,
    coarse: Float[Array, "queries lists"],
    probes: Int[Array, ""],
    is_allowed: Bool[Array, "size"],
) -> tuple[Float[Array, "queries lists"], Int[Array, ""]]:
    """Leaves out lists without a vector that may be found, and probes more of the others.

    Args:
        index: The index.
        coarse: How near each list is.
        probes: How many lists are scanned where all vectors may be found.
        is_allowed: Which vectors may be found.

    Returns:
        `coarse` with -inf for lists left out, and the number of lists to scan.
    """
    list_count = coarse.shape[1]
    is_filled = index.slots >= 0
    is_found = is_filled & is_allowed[jnp.maximum(index.slots, 0)]
    filled, found = (
        jax.ops.segment_sum(jnp.sum(part, axis=1, dtype=jnp.float32), index.page_lists, list_count)
        for part in (is_filled, is_found)
    )
    is_open = found > 0
    # Of the open lists, so that it is 1 where whole lists are asked for. The power .35 keeps the
    # recall of whole vectors at shares of .3 to .01 on word vectors; spilled lists need more.
    share = jnp.sum(found) / jnp.maximum(jnp.sum(jnp.where(is_open, filled, 0.0)), 1.0)
    more = jnp.ceil(probes.astype(jnp.float32) / jnp.maximum(share, 1e-9) ** 0.4 - 1e-3)
    probes = jnp.maximum(probes, jnp.minimum(more, float(list_count)).astype(jnp.int32))
    return jnp.where(is_open[None, :], coarse, -jnp.inf), probes


def layout_fields(layout: Layout) -> dict:
    """The fields of an index that hold its layout, on the device."""
    fields = layout._asdict()
    longest = fields.pop("longest")
    return {name: jnp.asarray(value) for name, value in fields.items()} | {"longest": longest}


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
