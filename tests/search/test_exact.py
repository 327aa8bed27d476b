import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed.search import exact_top_k
from jaxembed.search.similarity import unit_rows

pytestmark = pytest.mark.usefixtures("strict_dtypes")
search = jax.jit(exact_top_k, static_argnames=("k", "metric", "block_size"))
METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("metric", "query_count", "count", "dim", "k", "block_size"),
    [
        ("cosine", 1, 1, 1, 1, 8),
        *((metric, 3, 50, 7, 10, 16) for metric in METRICS),
        ("dot", 5, 64, 4, 64, 16),
        ("cosine", 2, 33, 16, 5, 100),
        ("euclidean", 4, 41, 3, 9, 4),
    ],
)
def test_equals_scoring_every_pair(metric, query_count, count, dim, k, block_size):
    queries, vectors = draw(0, query_count, dim), draw(1, count, dim)
    scores, ids = search(
        jnp.asarray(queries), jnp.asarray(vectors), k, metric=metric, block_size=block_size
    )
    expected_scores, expected_ids = naive_top_k(queries, vectors, k, metric)
    np.testing.assert_array_equal(ids, expected_ids)
    # A float32 sum of at most 16 products.
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_size", [7, 40])
def test_equal_scores_come_lowest_id_first(metric, block_size):
    # Products of small whole numbers are exact, so equal vectors score exactly the same.
    vectors = np.random.default_rng(2).integers(-1, 2, (40, 2)).astype(np.float32)
    queries = np.asarray([[1, 0], [1, 1], [-2, 1]], np.float32)
    _, ids = search(
        jnp.asarray(queries), jnp.asarray(vectors), 30, metric=metric, block_size=block_size
    )
    if metric == "dot":
        np.testing.assert_array_equal(ids, naive_top_k(queries, vectors, 30)[1])
    for row in np.asarray(ids):
        for vector in np.unique(vectors[row], axis=0):
            same = [i for i in row if (vectors[i] == vector).all()]
            assert same == sorted(same)
            assert same == np.flatnonzero((vectors == vector).all(axis=1))[: len(same)].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_excluded_ids_are_never_returned(metric):
    queries, vectors = draw(3, 6, 5), draw(4, 23, 5)
    exclude = np.random.default_rng(5).integers(-1, 23, (6, 9)).astype(np.int32)
    scores, ids = search(
        jnp.asarray(queries),
        jnp.asarray(vectors),
        20,
        metric=metric,
        exclude=jnp.asarray(exclude),
        block_size=6,
    )
    expected_scores, expected_ids = naive_top_k(queries, vectors, 20, metric, exclude)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
    assert (np.asarray(ids) == -1).any()


def test_only_the_excluded_vector_leaves_nothing():
    scores, ids = search(
        jnp.ones((1, 2)), jnp.ones((1, 2)), 1, exclude=jnp.zeros((1, 1), jnp.int32)
    )
    assert (scores.item(), ids.item()) == (-np.inf, -1)


@pytest.mark.parametrize("metric", METRICS)
def test_a_vector_with_nan_is_never_returned(metric):
    queries, vectors = draw(6, 2, 3), draw(7, 10, 3)
    vectors[4, 1] = np.nan
    scores, ids = search(
        jnp.asarray(queries), jnp.asarray(vectors), 10, metric=metric, block_size=4
    )
    np.testing.assert_array_equal(ids, naive_top_k(queries, vectors, 10, metric)[1])
    assert not np.isnan(scores).any()


def test_cosine_with_a_zero_vector_is_zero():
    vectors = jnp.asarray([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    scores, ids = search(jnp.asarray([[3.0, 3.0]]), vectors, 3, metric="cosine")
    np.testing.assert_allclose(scores, [[1.0, 0.0, -1.0]], atol=1e-6)
    np.testing.assert_array_equal(ids, [[1, 0, 2]])
    np.testing.assert_array_equal(unit_rows(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_euclidean_keeps_its_digits_far_from_the_origin():
    # At an offset of 1000 the expanded square is wrong by whole units.
    queries, vectors = 1000 + draw(8, 4, 8), 1000 + draw(9, 200, 8)
    scores, ids = search(
        jnp.asarray(queries), jnp.asarray(vectors), 10, metric="euclidean", block_size=64
    )
    expected_scores, expected_ids = naive_top_k(queries, vectors, 10, "euclidean")
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_half_precision_vectors_are_scored_in_float32():
    queries, vectors = draw(10, 3, 8), draw(11, 30, 8).astype(np.float16)
    scores, ids = search(jnp.asarray(queries), jnp.asarray(vectors), 5)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(ids, naive_top_k(queries, vectors, 5)[1])


def test_jit_compiles_once_a_shape():
    counted = jax.jit(
        chex.assert_max_traces(exact_top_k, n=1), static_argnames=("k", "metric", "block_size")
    )
    for seed in range(3):
        queries, vectors = draw(seed, 2, 4), draw(seed + 9, 20, 4)
        _, ids = counted(jnp.asarray(queries), jnp.asarray(vectors), k=3, block_size=8)
        np.testing.assert_array_equal(ids, naive_top_k(queries, vectors, 3)[1])
    chex.clear_trace_counter()


@pytest.mark.parametrize("metric", METRICS)
def test_lowers_for_every_platform(metric):
    lowered = jax.jit(lambda queries, vectors: exact_top_k(queries, vectors, 5, metric=metric))
    shapes = jax.ShapeDtypeStruct((2, 4), jnp.float32), jax.ShapeDtypeStruct((30, 4), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    assert jax.export.export(lowered, platforms=platforms)(*shapes).platforms == platforms


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, but there are 3 vectors"):
        exact_top_k(jnp.ones((1, 2)), jnp.ones((3, 2)), k)


def test_wrong_block_size_is_refused():
    with pytest.raises(ValueError, match="block_size is 0"):
        exact_top_k(jnp.ones((1, 2)), jnp.ones((3, 2)), 1, block_size=0)
