import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.kmeans import kmeans, nearest_centroids


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "count", "dim"), [(1, 1, 1), (50, 7, 3), (9_000, 300, 4)])
def test_assignment_is_to_the_nearest(size, count, dim):
    rows, centroids = draw(0, size, dim), draw(1, count, dim)
    assigned, nearness = nearest_centroids(jnp.asarray(rows), jnp.asarray(centroids))
    distances = ((rows[:, None].astype(float) - centroids[None]) ** 2).sum(axis=2)
    chosen = np.take_along_axis(distances, np.asarray(assigned)[:, None], axis=1)[:, 0]
    # Sums of at most 4 squares in float32.
    np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-4)
    np.testing.assert_allclose((rows**2).sum(1) - 2 * np.asarray(nearness), chosen, atol=1e-4)


def test_equal_centroids_give_the_first():
    assigned, _ = nearest_centroids(jnp.ones((3, 2)), jnp.ones((4, 2)))
    np.testing.assert_array_equal(assigned, [0, 0, 0])


def test_well_separated_clusters_are_found(key):
    middles = 100.0 * draw(2, 12, 5) + 1000.0
    rows = np.repeat(middles, 20, axis=0) + draw(3, 240, 5)
    found = kmeans(jnp.asarray(rows), 12, key=key)
    # With each cluster at its own mean the objective is about dim * (size - clusters).
    means = rows.reshape(12, 20, 5).mean(axis=1, keepdims=True)
    best = ((rows.reshape(12, 20, 5) - means) ** 2).sum()
    np.testing.assert_allclose(found.objective, best, rtol=1e-3)
    assert [len(set(row)) for row in np.asarray(found.assignments).reshape(12, 20)] == [1] * 12


def test_iterations_never_raise_the_objective(key):
    rows = jnp.asarray(draw(4, 500, 6))
    objectives = [float(kmeans(rows, 20, key=key, iterations=n).objective) for n in range(6)]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[5] < 0.95 * objectives[0]


def test_an_empty_cluster_is_split_off_the_worst(key):
    rows = jnp.asarray(np.concatenate([draw(5, 40, 2), 50 + draw(6, 40, 2)]))
    start = jnp.asarray([[0.0, 0.0], [50.0, 50.0], [1e4, 1e4], [-1e4, 1e4]])
    found = kmeans(rows, 4, key=key, iterations=10, start=start)
    assert set(np.asarray(found.assignments).tolist()) == {0, 1, 2, 3}
    two = kmeans(rows, 4, key=key, iterations=0, start=start)
    assert float(found.objective) < 0.8 * float(two.objective)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_vectors_than_clusters(distinct, key):
    rows = jnp.asarray(np.tile(draw(7, distinct, 4), (5, 1)))
    found = kmeans(rows, 8, key=key)
    assert np.isfinite(np.asarray(found.centroids)).all()
    np.testing.assert_allclose(found.objective, 0.0, atol=1e-5)


def test_the_same_key_gives_the_same_bits(key):
    rows = jnp.asarray(draw(8, 300, 4))
    first, second = (np.asarray(kmeans(rows, 10, key=key).centroids) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = kmeans(rows, 10, key=jax.random.key(1)).centroids
    assert not np.array_equal(first, other)


def test_spherical_centroids_have_length_one(key):
    rows = draw(9, 200, 5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = kmeans(jnp.asarray(rows), 6, key=key, spherical=True)
    centroids = np.asarray(found.centroids)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found.assignments, np.argmax(rows @ centroids.T, axis=1))
    np.testing.assert_allclose(found.objective, -(rows @ centroids.T).max(axis=1).sum(), rtol=1e-5)


def test_a_sample_trains_and_all_are_assigned(key):
    rows = jnp.asarray(draw(10, 400, 3))
    found = kmeans(rows, 5, key=key, sample=100)
    assert found.assignments.shape == (400,)
    full = kmeans(rows, 5, key=key)
    assert float(found.objective) < 1.15 * float(full.objective)


def test_no_cluster_is_refused(key):
    with pytest.raises(ValueError, match="count is 0"):
        kmeans(jnp.ones((2, 2)), 0, key=key)
