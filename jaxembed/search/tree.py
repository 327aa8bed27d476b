"""A tree of balls and boxes: the exact answer, from only the leaves that can hold a part of it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, Num
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.exact import exact_top_k
from jaxembed.search.index import Index, register_index, static
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report

# Bounds are computed in float32; they are loosened by so many roundings of the numbers in them.
SLACK = 32 * float(np.finfo(np.float32).eps)
# Pruning pays if it saves at least this share of the comparisons, measured at build.
LEAST_PRUNED = 0.5
SAMPLE = 32
LEAVES_AT_ONCE = 16


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class BallTreeIndex(Index):
    """The leaves of a balanced tree, searched best first until no other can hold a better vector.

    Vectors are turned to their principal axes and halved along the one in which they vary most,
    down to leaves of equal size. Each leaf is bounded by a ball and by a box on those axes. A
    search bounds all leaves, then opens them by falling bound. Where a sample of searches at
    `build` saved less than half of the comparisons, as in many dimensions, `is_flat` is True, no
    leaves are kept and every vector is scored.

    Attributes:
        vectors: The vectors in the order of `ids`, of length 1 for the metric "cosine".
        places: Positions of the vectors by leaf; -1 where a leaf has fewer.
        leaves: The vectors by leaf; zeros where there is none.
        mean: The mean vector.
        axes: The principal axes, by row.
        centres: Centres of the balls, about the mean on those axes.
        radii: Their radii.
        lows: Lower ends of the boxes, about the mean on those axes.
        highs: Upper ends.
        longest: The largest length of a vector in each leaf.
        ids: As in `Index`.
        metric: As in `Index`.
        leaf_size: The most vectors in a leaf.
        is_flat: Whether every vector is scored.

    Reference: Omohundro, "Five balltree construction algorithms", 1989; Ram & Gray, "Maximum
    inner-product search using tree data-structures", https://arxiv.org/abs/1202.6101, theorem 3.1.
    Departures: boxes beside balls, because in 10 dimensions they prune several times more, and all
    leaves are bounded at once instead of level by level, because that is two matrix products.
    """

    vectors: Float[Array, "size dim"]
    places: Int[Array, "leaf_count width"]
    leaves: Float[Array, "leaf_count width dim"]
    mean: Float[Array, "dim"]
    axes: Float[Array, "dim dim"]
    centres: Float[Array, "leaf_count dim"]
    radii: Float[Array, "leaf_count"]
    lows: Float[Array, "leaf_count dim"]
    highs: Float[Array, "leaf_count dim"]
    longest: Float[Array, "leaf_count"]
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")
    leaf_size: int = static(default=32)
    is_flat: bool = static(default=False)

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        leaf_size: int = 32,
    ) -> "BallTreeIndex":
        """Makes an index, as `Index.build` says, with an option of its own.

        Args:
            vectors: As there.
            metric: As there.
            key: Not used.
            ids: As there.
            leaf_size: The most vectors in a leaf, at least 1.

        Returns:
            The index.

        Raises:
            ValueError: As there, or if the leaf size is below 1.
        """
        rows = check_vectors(vectors, metric=metric)
        if leaf_size < 1:
            raise ValueError(f"leaf_size is {leaf_size}: it must be at least 1.")
        return _assemble(rows, check_ids(ids, len(rows)), metric, leaf_size)

    def search(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> Results:
        """Finds the k best vectors for each query, exactly, as `Index.search` says."""
        check_search(queries, k, self.dim)
        return (_search_flat if self.is_flat else _search)(self, queries, where, k=k)[:2]

    def search_counting(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> tuple[Results, Int32[Array, "queries"]]:
        """Searches and counts the work.

        Args:
            queries: As in `search`.
            k: As in `search`.
            where: As in `search`.

        Returns:
            What `search` returns, and for each query the number of vectors and leaves compared
            with it; `pruned_fraction` makes a fraction of it.

        Raises:
            ValueError: As `search`.
        """
        check_search(queries, k, self.dim)
        found = (_search_flat if self.is_flat else _search)(self, queries, where, k=k)
        return found[:2], found[2]

    def pruned_fraction(self, queries: Num[Array | np.ndarray, "queries dim"], k: int) -> float:
        """Measures how much of the work of scoring every vector the tree saves.

        Args:
            queries: As in `search`.
            k: As in `search`.

        Returns:
            1 minus the mean count of comparisons, leaves included, over the number of vectors; 0
            for a flat index, and below 0 where the tree costs more than it saves.

        Raises:
            ValueError: As `search`.
        """
        counted = np.asarray(self.search_counting(queries, k)[1])
        return 1.0 - float(counted.mean(dtype=np.float64)) / self.size

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.vectors.shape[1]

    def _append(self, rows, ids):
        rows, ids = concatenate([self.vectors, rows]), concatenate([self.ids, ids])
        return _assemble(rows, ids, self.metric, self.leaf_size)

    def _keep(self, positions):
        rows, ids = np.asarray(self.vectors)[positions], np.asarray(self.ids)[positions]
        return _assemble(rows, ids, self.metric, self.leaf_size)

    def _replace(self, positions, rows):
        vectors = np.array(self.vectors)
        vectors[positions] = rows
        return _assemble(vectors, np.asarray(self.ids), self.metric, self.leaf_size)


def _assemble(rows, ids, metric, leaf_size):
    """Grows the tree, and gives it up where a sample of searches says that it does not pay."""
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    axes = _principal_axes(rows, mean)
    turned = (rows - mean) @ axes.T
    places = _halve(turned, leaf_size)
    is_there, members = (places >= 0)[..., None], turned[places]
    counts = np.maximum(is_there.sum(axis=1), 1)
    centres = np.where(is_there, members, 0).sum(axis=1) / counts
    distances = np.linalg.norm(members - centres[:, None, :], axis=2)
    lengths = np.linalg.norm(rows, axis=1)[places]
    arrays = {
        "places": places,
        "leaves": np.where(is_there, rows[places], 0),
        "centres": centres,
        "radii": np.where(is_there[..., 0], distances, 0).max(axis=1),
        "lows": np.where(is_there, members, members[:, :1]).min(axis=1),
        "highs": np.where(is_there, members, members[:, :1]).max(axis=1),
        "longest": np.where(is_there[..., 0], lengths, 0).max(axis=1),
    }
    arrays = {name: jnp.asarray(array.astype(places.dtype if name == "places" else np.float32))
              for name, array in arrays.items()}  # fmt: skip
    shared = {"vectors": jnp.asarray(rows), "mean": jnp.asarray(mean), "axes": jnp.asarray(axes)}
    options = {"ids": jnp.asarray(ids), "metric": metric, "leaf_size": leaf_size}
    index = BallTreeIndex(**shared, **arrays, **options)
    # Queries like the vectors, but none of them.
    sample = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(int)]
    queries = 0.75 * sample + 0.25 * np.roll(sample, 1, axis=0)
    if index.pruned_fraction(queries.astype(np.float32), 10) >= LEAST_PRUNED:
        return index
    none = {name: array[:0] for name, array in arrays.items()}
    return BallTreeIndex(**shared, **none, **options, is_flat=True)


def _principal_axes(rows, mean):
    """Directions by falling variance, by row."""
    centred = rows[:: max(1, len(rows) // 50_000)] - mean
    return np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1].T[::-1].astype(np.float32)


def _halve(turned, leaf_size):
    """Positions by leaf, by splitting every node at the median of the axis of most variance."""
    count = len(turned)
    depth = max(0, math.ceil(math.log2(count / leaf_size)))
    groups = [np.arange(count, dtype=np.int32)]
    for _ in range(depth):
        groups = [half for group in groups for half in _split(turned, group)]
    places = np.full((len(groups), max(map(len, groups))), -1, np.int32)
    for leaf, group in enumerate(groups):
        places[leaf, : len(group)] = np.sort(group)
    return places


def _split(turned, group):
    """Two halves, neither empty: a tree is no deeper than the logarithm of its vectors."""
    members = turned[group]
    order = np.argsort(members[:, np.argmax(members.var(axis=0))], kind="stable")
    middle = (len(group) + 1) // 2
    return group[order[:middle]], group[order[middle:]]


def _bounds(index, queries):
    """The best nearness that any vector of each leaf can have to each query, [queries, leaves]."""
    radii, longest = index.radii[None, :], index.longest[None, :]
    if index.metric == "dot":
        lengths = jnp.sqrt(jnp.sum(queries * queries, axis=1, keepdims=True))
        turned = _dot(queries, index.axes.T)
        at_mean = _dot(queries, index.mean)[:, None]
        positive, negative = jnp.maximum(turned, 0.0), jnp.minimum(turned, 0.0)
        box = _dot(positive, index.highs.T) + _dot(negative, index.lows.T)
        ball = _dot(turned, index.centres.T) + lengths * radii  # Ram & Gray, theorem 3.1
        bounds = jnp.minimum(jnp.minimum(box, ball) + at_mean, lengths * longest)
        reach = jnp.sqrt(jnp.sum(index.mean**2)) + jnp.max(longest)
        return bounds + SLACK * lengths * reach
    turned = _dot(queries - index.mean[None, :], index.axes.T)

    def to_box(turned):
        lows, highs = index.lows.T, index.highs.T
        outside = jnp.maximum(jnp.maximum(lows - turned[:, None], turned[:, None] - highs), 0.0)
        return jnp.sum(outside * outside, axis=0)

    squares = jnp.sum(turned * turned, axis=1, keepdims=True)
    squares += jnp.sum(index.centres**2, axis=1)[None, :]
    to_centres = squares - 2.0 * _dot(turned, index.centres.T) - SLACK * squares
    to_balls = jnp.sqrt(jnp.maximum(to_centres, 0.0)) - radii
    least = jnp.maximum(to_balls, jnp.sqrt(lax.map(to_box, turned)))
    least = jnp.maximum(least - SLACK * (jnp.sqrt(squares) + radii), 0.0)
    if index.metric == "euclidean":
        return -least
    # Of lengths at most 1: 2 q.x = |q|^2 + |x|^2 - |q - x|^2.
    return 1.0 + SLACK - 0.5 * least * least


@functools.partial(jax.jit, static_argnames="k")
def _search(index, queries, where, *, k):
    """What `BallTreeIndex.search` returns, and the count of comparisons."""
    queries, is_finite = prepare_queries(queries, index.metric)
    mask = allowed(where, index.ids)
    leaf_count, width = index.places.shape
    kept, group = min(k, index.size), min(LEAVES_AT_ONCE, leaf_count)
    is_there = index.places >= 0
    if mask is not None:
        is_there &= mask[index.places]

    def find(query_and_bounds):
        query, bounds = query_and_bounds

        def goes_on(state):
            bounds, best, _, _, _ = state
            # At an equal bound a vector of a lower position may wait.
            return (jnp.max(bounds) >= best[-1]) & (jnp.max(bounds) > -jnp.inf)

        def open_leaves(state):
            bounds, best, places, dropped, opened = state
            highest, chosen = lax.top_k(bounds, group)
            is_opened = (highest >= best[-1]) & (highest > -jnp.inf)
            nearness = _nearness(query, index.leaves[chosen].reshape(-1, index.dim), index.metric)
            is_found = is_there[chosen] & is_opened[:, None]
            nearness = jnp.where(is_found.reshape(-1), nearness, -jnp.inf)
            everything = jnp.concatenate([best, nearness])
            top, winners = lax.top_k(everything, kept + 1)
            places = jnp.concatenate([places, index.places[chosen].reshape(-1)])[winners[:-1]]
            bounds = bounds.at[chosen].set(-jnp.inf)
            return bounds, top[:-1], places, jnp.maximum(dropped, top[-1]), opened + group

        nothing = jnp.full(kept, -jnp.inf), jnp.full(kept, -1, jnp.int32)
        state = bounds, *nothing, jnp.float32(-jnp.inf), jnp.int32(0)
        _, best, places, dropped, opened = lax.while_loop(goes_on, open_leaves, state)

        def settle_tie():
            # Equals of the last place were dropped: the lowest positions are found among all.
            nearness = lax.map(lambda rows: _nearness(query, rows, index.metric), index.leaves)
            by_position = jnp.full(index.size, -jnp.inf)
            targets = jnp.where(is_there, index.places, index.size)
            by_position = by_position.at[targets].set(nearness, mode="drop")
            best, places = lax.top_k(by_position, kept)
            return best, places

        has_tie = (dropped == best[-1]) & (dropped > -jnp.inf)
        best, places = lax.cond(has_tie, settle_tie, lambda: (best, places))
        farness, places = lax.sort((-best, places), num_keys=2)
        scored = jnp.where(has_tie, index.size, jnp.minimum(opened * width, index.size))
        return -farness, places, scored + leaf_count

    # One query at a time: in lockstep the hardest query would hold up all others.
    nearness, positions, counted = lax.map(find, (queries, _bounds(index, queries)))
    found = report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
    return *found, counted


@functools.partial(jax.jit, static_argnames="k")
def _search_flat(index, queries, where, *, k):
    """The same by scoring every vector."""
    queries, is_finite = prepare_queries(queries, index.metric)
    nearness, positions = exact_top_k(
        queries,
        index.vectors,
        min(k, index.size),
        metric="euclidean" if index.metric == "euclidean" else "dot",
        where=allowed(where, index.ids),
    )
    found = report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
    return *found, jnp.full(len(queries), index.size, jnp.int32)


def _dot(first, second):
    return jnp.matmul(first, second, precision=lax.Precision.HIGHEST)


def _nearness(query, rows, metric):
    """Scores rows for one query; larger is nearer."""
    if metric == "euclidean":
        differences = rows - query[None, :]
        return -jnp.sqrt(jnp.sum(differences * differences, axis=1))
    return jnp.sum(rows * query[None, :], axis=1)
