"""K-means clustering: k-means++ start, Lloyd's iterations, empty clusters split."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxembed.search.similarity import unit_rows

SCORES_AT_ONCE = 1 << 19  # 2 MB: stays in a core's cache, where products are made
SEEDING_SAMPLE = 24  # vectors a centroid that k-means++ draws from


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
        centroids: A row for each cluster.
        assignments: The cluster of each vector.
        objective: The sum of squared distances to the nearest centroid; for spherical k-means of
            cosines, with the sign turned.
    """

    centroids: Float[Array, "count dim"]
    assignments: Int[Array, "size"]
    objective: Float[Array, ""]


def nearest_centroids(
    vectors: Float[Array, "size dim"],
    centroids: Float[Array, "count dim"],
    *,
    offsets: Float[Array, "count"] | None = None,
) -> tuple[Int[Array, "size"], Float[Array, "size"]]:
    """Finds the centroid with the largest inner product plus offset for each vector.

    Args:
        vectors: Rows to assign.
        centroids: Centroids; of equally near ones the first is taken.
        offsets: What is added to a centroid's products. None stands for minus half the square of
            its length: the nearest by Euclidean distance. Zeros choose by inner product.

    Returns:
        The centroid of each vector, and its product plus offset. The squared distance, with the
        default offsets, is the square of the vector's length minus twice that.
    """
    if offsets is None:
        offsets = -0.5 * jnp.sum(centroids * centroids, axis=1)
    count = centroids.shape[0]
    # An index in float32 is exact to 2^24, and its minimum, unlike an argmin, is vectorised; so is
    # a reduction over the first axis.
    numbers = jnp.arange(count, dtype=jnp.float32)[:, None]

    def assign(rows):
        products = jnp.matmul(centroids, rows.T, precision=lax.Precision.HIGHEST)
        products = products + offsets[:, None]  # [count, rows]
        best = jnp.max(products, axis=0)
        first = jnp.min(jnp.where(products == best[None, :], numbers, float(count)), axis=0)
        return jnp.minimum(first, count - 1).astype(jnp.int32), best

    return map_rows(assign, vectors, max(8, SCORES_AT_ONCE // count))


def map_rows(function, arrays, size):
    """Applies a function of arrays' rows to about so many rows at a time, and joins the results."""
    total = jax.tree.leaves(arrays)[0].shape[0]
    if total <= size:
        return function(arrays)
    steps = -(-total // size)
    size = -(-total // steps)

    def cut(rows):
        padding = ((0, steps * size - total),) + ((0, 0),) * (rows.ndim - 1)
        return jnp.pad(rows, padding).reshape(steps, size, *rows.shape[1:])

    outputs = lax.map(function, jax.tree.map(cut, arrays))
    return jax.tree.map(lambda out: out.reshape(-1, *out.shape[2:])[:total], outputs)


def kmeans(
    vectors: Float[Array, "size dim"],
    count: int,
    *,
    key: jax.Array,
    iterations: int = 25,
    spherical: bool = False,
    sample: int | None = None,
    start: Float[Array, "count dim"] | None = None,
) -> Clusters:
    """Clusters vectors around `count` centroids.

    Deterministic in the key. Each iteration assigns every vector to its nearest centroid and moves
    the centroids to the means; a centroid without vectors is put beside the one whose cluster has
    the largest error, which so is split. Where there are fewer distinct vectors than centroids some
    clusters stay empty. Traceable with all but `vectors` and `key` static.

    Args:
        vectors: Finite rows.
        count: Number of centroids, at least 1.
        key: Of the start and the sample.
        iterations: Lloyd's iterations, at least 0.
        spherical: Centroids are scaled to length 1 and assignment is by inner product, for unit
            vectors.
        sample: Train on so many random vectors, at least 1; None trains on all. Assignments and
            objective are of all vectors.
        start: Centroids to start from, in place of k-means++.

    Returns:
        Centroids, assignments and objective.

    Raises:
        ValueError: If `count` is below 1 or `iterations` below 0.

    Reference: Arthur & Vassilvitskii, k-means++, 2007, section 2.2.
    """
    if count < 1 or iterations < 0:
        raise ValueError(
            f"count is {count} and iterations is {iterations}: wanted at least 1 and 0."
        )
    return _kmeans(vectors, key, start, count, iterations, spherical, sample)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _kmeans(vectors, key, start, count, iterations, spherical, sample):
    vectors = vectors.astype(jnp.float32)
    sample_key, seed_key, split_key = jax.random.split(key, 3)
    # Products of far-away vectors lose digits, so distances are taken around the mean.
    centre = jnp.zeros_like(vectors[0]) if spherical else jnp.mean(vectors, axis=0)
    vectors = vectors - centre[None, :]
    trained = _draw(vectors, sample, sample_key)
    if start is None:
        seeds = _draw(trained, SEEDING_SAMPLE * count, seed_key)
        centroids = _plus_plus(seeds, count, seed_key)
    else:
        centroids = start - centre[None, :]
    offsets = jnp.zeros(count) if spherical else None
    squares = jnp.sum(trained * trained, axis=1)

    def improve(step, centroids):
        assignments, nearness = nearest_centroids(trained, centroids, offsets=offsets)
        sizes = jax.ops.segment_sum(jnp.ones_like(nearness), assignments, count)
        sums = jax.ops.segment_sum(trained, assignments, count)
        errors = jax.ops.segment_sum(squares - 2.0 * nearness, assignments, count)
        moved = jnp.where((sizes > 0)[:, None], sums / jnp.maximum(sizes, 1)[:, None], centroids)
        moved = _split_empty(moved, sizes, errors, jax.random.fold_in(split_key, step))
        return unit_rows(moved) if spherical else moved

    centroids = lax.fori_loop(0, iterations, improve, centroids)
    assignments, nearness = nearest_centroids(vectors, centroids, offsets=offsets)
    if spherical:
        objective = -jnp.sum(nearness)
    else:
        objective = jnp.sum(jnp.maximum(jnp.sum(vectors * vectors, axis=1) - 2.0 * nearness, 0.0))
    return Clusters(centroids + centre[None, :], assignments, objective)


def _draw(vectors, count, key):
    """So many rows at random, or all."""
    if count is None or vectors.shape[0] <= count:
        return vectors
    return vectors[jax.random.choice(key, vectors.shape[0], (count,), replace=False)]


def _plus_plus(vectors, count, key):
    """Draws centroids one by one, each with a chance proportional to its squared distance."""
    first_key, key = jax.random.split(key)
    draws = jax.random.uniform(key, (count,))
    first = vectors[jax.random.randint(first_key, (), 0, vectors.shape[0])]

    def distances_to(row):
        differences = vectors - row[None, :]
        return jnp.sum(differences * differences, axis=1)

    def draw(place, state):
        centroids, distances = state
        ends = jnp.cumsum(distances)
        chosen = jnp.searchsorted(ends, draws[place] * ends[-1], side="right")
        row = vectors[jnp.minimum(chosen, vectors.shape[0] - 1)]
        return centroids.at[place].set(row), jnp.minimum(distances, distances_to(row))

    centroids = jnp.zeros((count, vectors.shape[1]), jnp.float32).at[0].set(first)
    return lax.fori_loop(1, count, draw, (centroids, distances_to(first)))[0]


def _split_empty(centroids, sizes, errors, key):
    """Puts each centroid without vectors a step beside one of the worst clusters."""
    count, dim = centroids.shape
    is_empty = sizes == 0
    # The n-th empty cluster goes to the n-th worst of those that can be split.
    worst = jnp.argsort(jnp.where(sizes > 1, -errors, jnp.inf))
    rank = jnp.cumsum(is_empty, dtype=jnp.int32) - 1
    splittable = jnp.sum(sizes > 1, dtype=jnp.int32)
    can_move = is_empty & (rank < splittable)
    donors = jnp.where(can_move, worst[jnp.clip(rank, 0, count - 1)], count)
    spread = jnp.sqrt(jnp.maximum(errors, 0.0) / jnp.maximum(sizes, 1.0) / dim)
    steps = 0.1 * spread[:, None] * jax.random.normal(key, (count, dim))
    near = jnp.clip(donors, 0, count - 1)
    moved = jnp.where(can_move[:, None], centroids[near] + steps[near], centroids)
    return moved.at[donors].add(-steps[near], mode="drop")
