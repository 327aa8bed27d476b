import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.inverted import search_lists

from jaxembed.search import ScannIndex
from jaxembed.search.scann import soar_assignments


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(metric, spill):
    rows = draw(0, 500, 10) + 0.5
    ids = np.random.default_rng(1).permutation(3_000)[:500]
    return ScannIndex.build(rows, metric=metric, ids=ids, lists=15, spill=spill), rows


@pytest.fixture(scope="module")
def dot():
    return build("dot", 1.0)


def check_all(index, rows, queries, k):
    """With all lists probed and all vectors rescored the answer is exact."""
    scores, ids = index.search(jnp.asarray(queries), k, probes=99, rescore=-(-index.size // k))
    lists, centroids = np.zeros(len(rows), int), np.zeros((1, rows.shape[1]))
    expected, places = search_lists(queries, rows, lists, centroids, 1, k, index.metric)
    expected = -expected if index.metric == "euclidean" else expected
    np.testing.assert_array_equal(ids, np.where(places < 0, -1, np.asarray(index.ids)[places]))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_rescoring_all_is_exact(dot):
    for index, rows in (dot, build("cosine", None), build("euclidean", 1.0)):
        check_all(index, rows, draw(2, 7, 10), 6)


def test_recall_grows_with_rescoring_and_scores_are_exact(dot):
    index, rows = dot
    queries = draw(3, 100, 10)
    lists, centroids = np.zeros(500, int), np.zeros((1, 10))
    _, places = search_lists(queries, rows, lists, centroids, 1, 10, "dot")
    truth = np.asarray(index.ids)[places]
    recalls = []
    for rescore in (1, 3, 10):
        found = np.asarray(index.search(queries, 10, probes=15, rescore=rescore)[1])
        assert all(len(set(row)) == 10 for row in found.tolist())
        hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
        recalls.append(sum(hits) / 1_000)
    assert recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.95


def test_add_remove_update_then_exact(dot):
    index, rows = dot
    ids, added = np.asarray(index.ids), draw(4, 25, 10)
    changed = index.add(added, ids=np.arange(4_000, 4_025)).remove(ids[:60])
    changed = changed.update(ids[60:65], added[:5] - 2.0)
    truth = dict(zip(ids[65:].tolist(), rows[65:], strict=True))
    truth |= dict(zip(range(4_000, 4_025), added, strict=True))
    truth |= dict(zip(ids[60:65].tolist(), added[:5] - 2.0, strict=True))
    now = np.stack([truth[i] for i in np.asarray(changed.ids).tolist()])
    check_all(changed, now, draw(5, 4, 10), 5)


def test_second_lists_have_the_smallest_penalised_error():
    rows, centroids = draw(7, 30, 5), draw(8, 6, 5)
    first = np.argmin(((rows[:, None] - centroids[None]) ** 2).sum(axis=2), axis=1)
    choose = jax.jit(soar_assignments, static_argnames="penalty")
    second = choose(rows, centroids, first, penalty=1.5)
    for row, one, two in zip(rows, first, np.asarray(second), strict=True):
        line = (row - centroids[one]) / np.linalg.norm(row - centroids[one])
        losses = [
            ((row - c) ** 2).sum() + 1.5 * ((row - c) @ line) ** 2 if i != one else np.inf
            for i, c in enumerate(centroids)
        ]
        assert two == np.argmin(losses)


@pytest.mark.parametrize("options", [{"rescore": 0}, {"spill": -1.0}, {"threshold": 1.0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        ScannIndex.build(draw(10, 10, 4), **options)
