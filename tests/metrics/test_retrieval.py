import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import retrieval as naive

from jaxembed.metrics import average_precision_at_k, mrr, ndcg_at_k, precision_at_k, recall_at_k

pytestmark = pytest.mark.usefixtures("strict_dtypes")
FUNCTIONS = {
    "recall": recall_at_k,
    "precision": precision_at_k,
    "reciprocal_rank": mrr,
    "average_precision": average_precision_at_k,
}


def draw(seed, queries=25, found=12, wanted=7, items=30):
    """Rankings and relevant ids of all lengths, filled up with -1."""
    random = np.random.default_rng(seed)
    retrieved = np.full((queries, found), -1, np.int32)
    relevant = np.full((queries, wanted), -1, np.int32)
    for row in range(queries):
        for table, width in ((retrieved, found), (relevant, wanted)):
            size = random.integers(0, width + 1)
            table[row, :size] = random.permutation(items)[:size]
        random.shuffle(relevant[row])  # padding may be anywhere
    gains = random.integers(0, 4, relevant.shape).astype(np.float32)
    return retrieved, relevant, gains


def as_lists(retrieved, relevant):
    for found, wanted in zip(retrieved.tolist(), relevant.tolist(), strict=True):
        yield [i for i in found if i >= 0], [i for i in wanted if i >= 0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("k", [1, 3, 12, 20, None])
def test_equals_the_definition(name, k):
    retrieved, relevant, _ = draw(0)
    got = jax.jit(FUNCTIONS[name], static_argnums=2)(
        jnp.asarray(retrieved), jnp.asarray(relevant), k
    )
    reference, limit = getattr(naive, name), 12 if k is None else k
    expected = [reference(found, wanted, limit) for found, wanted in as_lists(retrieved, relevant)]
    assert 0 < np.mean(expected) < 1
    # Float32 sums of at most 12 quotients.
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20, None])
@pytest.mark.parametrize("is_graded", [True, False])
def test_ndcg_equals_the_definition(k, is_graded):
    retrieved, relevant, gains = draw(1)
    given = jnp.asarray(gains) if is_graded else None
    got = ndcg_at_k(jnp.asarray(retrieved), jnp.asarray(relevant), k, gains=given)
    gains = gains if is_graded else np.ones_like(gains)
    expected = []
    for (found, _), ids, values in zip(as_lists(retrieved, relevant), relevant, gains, strict=True):
        worth = {int(i): float(g) for i, g in zip(ids, values, strict=True) if i >= 0}
        expected.append(naive.ndcg(found, worth, 12 if k is None else k))
    assert 0 < np.mean(expected) < 1
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_perfect_ranking_has_one():
    ids = jnp.arange(5)[None, :]
    for function in (recall_at_k, precision_at_k, mrr, average_precision_at_k, ndcg_at_k):
        np.testing.assert_allclose(function(ids, ids), [1.0], atol=1e-6)


def test_the_known_value_of_ndcg():
    # Gains 3, 2, 3, 0, 1, 2 in the order found: the worked example of the usual textbooks.
    gains = jnp.asarray([[3.0, 2.0, 3.0, 0.0, 1.0, 2.0]])
    got = ndcg_at_k(jnp.arange(6)[None, :], jnp.arange(6)[None, :], 6, gains=gains)
    np.testing.assert_allclose(got, [0.9608], atol=1e-4)


def test_bad_arguments_are_refused():
    ids = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="k is 0"):
        recall_at_k(ids, ids, 0)
