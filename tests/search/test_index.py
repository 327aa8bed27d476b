"""The protocol, as ExactIndex keeps it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed.search import ExactIndex, Index
from jaxembed.search.checks import check_metric

METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(queries, vectors, ids, k, metric):
    """What a search must return, by scoring one pair at a time."""
    scores, positions = naive_top_k(queries, vectors, k, metric)
    scores = -scores if metric == "euclidean" else scores
    return scores, np.where(positions < 0, -1, np.asarray(ids)[positions])


def assert_finds(index, queries, vectors, ids, k, metric):
    scores, found = index.search(queries, k)
    expected_scores, expected_ids = expected(queries, vectors, ids, k, metric)
    np.testing.assert_array_equal(found, expected_ids)
    # A float32 sum of a few products of order 1.
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_search_reports_the_callers_ids(metric):
    vectors, queries, ids = draw(0, 37, 6), draw(1, 4, 6), np.arange(37)[::-1] * 3
    vectors[5] = 0
    index = ExactIndex.build(vectors, metric=metric, ids=ids)
    assert (index.size, index.dim, index.memory_bytes()) == (37, 6, 37 * 6 * 4 + 37 * 4)
    for k in (1, 5, 37, 50):  # more than there are as well
        assert_finds(index, queries, vectors, ids, k, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_where_comes_before_k(metric):
    vectors, queries, ids = draw(2, 30, 4), draw(3, 3, 4), np.arange(30) * 2
    index = ExactIndex.build(vectors, metric=metric, ids=ids)
    mask = np.random.default_rng(4).random(30) < 0.3
    scores, found = index.search(queries, 12, where=mask)
    expected_scores, expected_ids = expected(queries, vectors[mask], ids[mask], 12, metric)
    np.testing.assert_array_equal(found, expected_ids)
    assert (np.asarray(found) == -1).any() == (mask.sum() < 12)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
    in_range = (ids >= 10) & (ids < 21)
    _, found = index.search(queries, 8, where=(10, 21))
    _, expected_ids = expected(queries, vectors[in_range], ids[in_range], 8, metric)
    np.testing.assert_array_equal(found, expected_ids)


@pytest.mark.parametrize("metric", METRICS)
def test_changes_equal_a_fresh_build(metric):
    vectors, queries = draw(5, 20, 5), draw(6, 3, 5)
    index = ExactIndex.build(vectors[:12], metric=metric, ids=np.arange(12) + 100)
    grown = index.add(vectors[12:16])
    np.testing.assert_array_equal(grown.ids[12:], np.arange(112, 116))
    changed = grown.add(vectors[16:18], ids=[7, 5]).remove([103, 7]).update([100, 5], vectors[18:])
    kept = [18, *range(1, 3), *range(4, 16), 19]
    ids = [100, 101, 102, *range(104, 116), 5]
    np.testing.assert_array_equal(changed.ids, ids)
    fresh = ExactIndex.build(vectors[kept], metric=metric, ids=ids)
    chex.assert_trees_all_equal(changed, fresh)
    assert_finds(changed, queries, vectors[kept], ids, 18, metric)
    assert_finds(index, queries, vectors[:12], np.arange(12) + 100, 12, metric)  # as it was


@pytest.mark.parametrize("count", [1, 3, 20])
def test_update_in_general_equals_a_fresh_build(count):
    vectors, ids = draw(7, 20, 5), np.random.default_rng(8).permutation(40)[:20]
    index = ExactIndex.build(vectors, ids=ids)
    rows = draw(9, count, 5)
    positions = np.random.default_rng(9).permutation(20)[:count]
    # The way of an index that brings no `_replace` of its own.
    changed = Index._replace(index, positions, rows)
    vectors[positions] = rows
    assert sorted(changed.ids.tolist()) == sorted(ids.tolist())
    assert_finds(changed, draw(10, 3, 5), vectors, ids, 20, "dot")


@pytest.mark.parametrize("metric", METRICS)
def test_queries_that_are_not_finite_find_nothing(metric):
    queries = draw(11, 3, 4)
    queries[0, 1], queries[2, 0] = np.nan, np.inf
    scores, ids = ExactIndex.build(draw(12, 9, 4), metric=metric).search(queries, 2)
    worst = np.inf if metric == "euclidean" else -np.inf
    np.testing.assert_array_equal(ids[::2], np.full((2, 2), -1))
    np.testing.assert_array_equal(scores[::2], np.full((2, 2), worst))
    assert (np.asarray(ids[1]) >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_scores_come_in_the_order_of_ids(metric):
    vectors = np.ones((70, 3), np.float32)
    ids = np.random.default_rng(13).permutation(70)
    scores, found = ExactIndex.build(vectors, metric=metric, ids=ids).search(vectors[:2], 70)
    np.testing.assert_array_equal(found, [ids, ids])
    np.testing.assert_allclose(scores, {"dot": 3, "cosine": 1, "euclidean": 0}[metric], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint8])
def test_any_real_numbers_are_taken(dtype):
    vectors = np.random.default_rng(14).integers(0, 9, (11, 3)).astype(dtype)
    queries = vectors[:2]
    index = ExactIndex.build(vectors)
    assert index.vectors.dtype == jnp.float32
    np.testing.assert_array_equal(index.search(queries, 4)[1], naive_top_k(queries, vectors, 4)[1])


def test_works_in_the_middle_of_a_jitted_function():
    vectors, queries, weights = draw(15, 25, 6), draw(16, 4, 6), draw(17, 6, 6)
    index = ExactIndex.build(vectors)
    layer = jax.jit(lambda w, x, index: index.vectors[index.search(x @ w, 3)[1]].sum(axis=1))
    ids = naive_top_k(queries @ weights, vectors, 3)[1]
    np.testing.assert_allclose(
        layer(weights, queries, index), vectors[ids].sum(axis=1), rtol=1e-5, atol=1e-5
    )
    each = jax.vmap(lambda query: index.search(query[None, :], 3)[1][0])(queries)
    np.testing.assert_array_equal(each, index.search(queries, 3)[1])


def test_is_a_tree_of_arrays():
    index = ExactIndex.build(draw(18, 5, 3), metric="cosine")
    shapes = jax.tree.map(lambda leaf: leaf.shape, index)
    assert (shapes.vectors, shapes.ids, shapes.metric) == ((5, 3), (5,), "cosine")
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(index)]
    assert names == [".vectors", ".ids"]
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), index)
    found = jax.vmap(lambda index: index.search(jnp.ones((1, 3)), 2)[1])(stacked)
    np.testing.assert_array_equal(found[0], found[1])
    chex.assert_trees_all_equal(jax.device_put(index, jax.devices()[1]), index)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.zeros((0, 3)), {}, r"shape \(0, 3\): wanted at least one row"),
        (np.zeros(3), {}, r"shape \(3,\): wanted"),
        ([[0, 1], [np.nan, 1]], {}, "Row 1 of the vectors has a NaN"),
        ([[0, 1], [2, 1], [1, np.inf]], {}, "Row 2 of the vectors has a NaN"),
        ([[1e300, 1]], {}, "Row 0 of the vectors has a NaN or an infinity"),
        ([[1j, 1]], {}, "dtype complex128: wanted real"),
        ([["a", "b"]], {}, "wanted real numbers"),
        (np.ones((2, 2)), {"ids": [1, 1]}, "id 1 comes more than once"),
        (np.ones((2, 2)), {"ids": [1, -4]}, "id -4 is out of range"),
        (np.ones((2, 2)), {"ids": [1, 1 << 31]}, "id 2147483648 is out of range"),
        (np.ones((2, 2)), {"ids": [1]}, r"shape \(1,\)"),
        (np.ones((2, 2)), {"ids": [0.5, 1]}, "dtype float64"),
        (np.ones((2, 2)), {"ids": ["a", "b"]}, "keep strings in a KeyedVectors"),
    ],
)
def test_bad_vectors_and_ids_are_refused(vectors, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ExactIndex.build(vectors, **options)


def test_bad_changes_and_queries_are_refused():
    index = ExactIndex.build(np.ones((3, 2)), ids=[4, 5, 6])
    with pytest.raises(ValueError, match="id 5 is in the index already"):
        index.add(np.ones((1, 2)), ids=[5])
    with pytest.raises(KeyError, match="1 of 2 ids are not in the index of 3: 9"):
        index.remove([9, 4])
    with pytest.raises(ValueError, match="All 3 vectors would go"):
        index.remove([4, 5, 6])
    with pytest.raises(ValueError, match="id 4 comes more than once"):
        index.remove([4, 4])
    with pytest.raises(ValueError, match="2 ids but 1 vectors"):
        index.update([4, 5], np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\): wanted at least one row of 2"):
        index.add(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"queries have shape \(1, 3\)"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(ValueError, match="k is 0"):
        index.search(np.ones((1, 2)), 0)
    with pytest.raises(ValueError, match=r"where has shape \(2,\)"):
        index.search(np.ones((1, 2)), 1, where=np.ones(2, bool))
    with pytest.raises(ValueError, match="Unknown metric 'dot '"):
        check_metric("dot ")
    with pytest.raises(ValueError, match="out of range"):
        ExactIndex.build(np.ones((1, 2)), ids=[2**31 - 1]).add(np.ones((1, 2)))
