import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.inverted import search_lists

from jaxembed.metrics import recall_at_k
from jaxembed.search import IVFIndex, IVFPQIndex, ScannIndex
from jaxembed.search.pages import lay_out
from jaxembed.search.sharded import shard_pages

METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_of(index, rows):
    """The rows in the form in which centroids are compared with them."""
    return unit(rows) if index.metric == "cosine" else rows


def check(index, queries, rows, k, probes, **options):
    scores, ids = index.search(jnp.asarray(queries), k, probes=probes, **options)
    centroids = np.asarray(index.centroids) + np.asarray(index.centre)
    expected, places = search_lists(
        queries,
        rows,
        index.assignments(),
        centroids,
        probes,
        k,
        index.metric,
        options.get("where"),
    )
    if index.metric == "euclidean":
        expected = -expected
    np.testing.assert_array_equal(ids, np.where(places < 0, -1, np.asarray(index.ids)[places]))
    # Float32 sums of at most 8 terms.
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def build(metric):
    rows = draw(0, 700, 8)
    ids = np.random.default_rng(1).permutation(5_000)[:700]
    return IVFIndex.build(rows, metric=metric, lists=40, ids=ids), rows


@pytest.fixture(scope="module")
def built():
    return build("euclidean")


@pytest.mark.parametrize("metric", METRICS)
def test_equals_scoring_the_probed_lists(metric, built):
    index, rows = built if metric == "euclidean" else build(metric)
    for probes in (1, 3, 40):
        check(index, draw(2, 20, 8), rows, 7, probes)


def test_more_lists_than_a_round_takes_of_very_unequal_lengths():
    # All but 40 vectors lie in one list, which alone fills a round.
    rows = np.concatenate([draw(3, 40, 8), 0.01 * draw(4, 300, 8) + 3.0])
    centroids = np.concatenate([rows[:40], np.full((1, 8), 3.0, np.float32)])
    skewed = IVFIndex.build(rows, metric="euclidean", centroids=centroids)
    assert skewed.longest > 2 * skewed.slots.shape[0] / 41
    check(skewed, draw(5, 3, 8), rows, 50, 41)


def test_where_comes_before_k_and_probes_more_of_the_lists_that_hold_some(built):
    index, rows = built
    queries, lists = draw(2, 20, 8), index.assignments()
    centroids = np.asarray(index.centroids) + np.asarray(index.centre)
    few = np.random.default_rng(6).random(700) < 0.125
    for mask in (few, np.isin(lists, [3, 8, 9]), few & np.isin(lists, range(9))):
        scores, ids = index.search(queries, 7, probes=2, where=mask)
        is_open = np.bincount(lists, mask, 40) > 0
        share = mask.sum() / np.isin(lists, np.flatnonzero(is_open)).sum()
        probes = int(np.ceil(2 * share**-0.4 - 1e-3))
        far = np.where(is_open[:, None], centroids, 1e3)
        expected, places = search_lists(queries, rows, lists, far, probes, 7, "euclidean", mask)
        np.testing.assert_array_equal(ids, np.where(places < 0, -1, np.asarray(index.ids)[places]))
        np.testing.assert_allclose(scores, -expected, rtol=1e-5)


@pytest.fixture(scope="module")
def clustered():
    """2,000 vectors around 60 centres, and 50 queries."""
    centres = draw(21, 60, 8)
    near = centres[np.arange(2_050) % 60] + 0.8 * draw(22, 2_050, 8)
    return near[:2_000], near[2_000:]


@pytest.mark.parametrize("cls", [IVFIndex, IVFPQIndex, ScannIndex])
def test_recall_under_a_narrow_mask_is_that_without(cls, clustered):
    rows, queries = clustered
    options = {} if cls is IVFIndex else {"iterations": 2}
    index = cls.build(rows, metric="euclidean", lists=40, **options)
    decoded = rows if cls is ScannIndex else index.rows()
    far = ((queries[:, None] - decoded[None]) ** 2).sum(axis=2)
    recalls = []
    for share in (1.0, 0.1, 0.01):
        mask = np.random.default_rng(23).random(2_000) < share
        found = index.search(queries, 10, where=mask)[1]
        # What probing all lists finds: codes are as wrong under a mask as without.
        truth = np.argsort(np.where(mask[None], far, np.inf), axis=1)[:, :10]
        recalls.append(float(recall_at_k(found, jnp.asarray(truth)).mean()))
    assert recalls[0] > 0.85
    assert min(recalls[1:]) >= recalls[0] - 0.01


def test_pages_spread_over_devices_find_the_same(built):
    index, _ = built
    queries = jnp.asarray(draw(2, 20, 8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = shard_pages(index, mesh)
    assert sharded.slots.shape[0] % 8 == 0
    assert len(sharded.vectors.sharding.device_set) == 8
    assert not sharded.vectors.sharding.is_fully_replicated
    for probes in (3, 40):
        scores, ids = sharded.search(queries, 7, probes=probes)
        expected_scores, expected = index.search(queries, 7, probes=probes)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)


def test_probes_are_chosen_without_compiling(built):
    index, _ = built
    counted = jax.jit(chex.assert_max_traces(lambda q, p: index.search(q, 5, probes=p), n=1))
    queries = jnp.asarray(draw(10, 6, 8))
    counts = [int((counted(queries, probes)[1] >= 0).sum()) for probes in (1, 2, 40)]
    assert counts == sorted(counts)
    chex.clear_trace_counter()


def test_many_queries_equal_few(built):
    index, _ = built
    queries = jnp.asarray(draw(13, 1_100, 8))
    scores, ids = index.search(queries, 7)
    np.testing.assert_array_equal(ids[700:720], index.search(queries[700:720], 7)[1])
    assert bool((ids >= 0).all()) and bool(jnp.isfinite(scores).all())


def test_add_remove_and_update_find_what_is_there(built):
    index, rows = built
    added = draw(14, 30, 8)
    ids = np.asarray(index.ids)
    changed = index.add(added, ids=np.arange(9_000, 9_030)).remove(ids[:100])
    changed = changed.update(ids[100:110], added[:10] + 1.0)
    truth = dict(zip(ids[110:], rows[110:], strict=True))
    truth |= dict(zip(range(9_000, 9_030), added, strict=True))
    truth |= dict(zip(ids[100:110], added[:10] + 1.0, strict=True))
    order = np.asarray(changed.ids)
    assert set(order.tolist()) == {int(i) for i in truth}
    check(changed, draw(15, 10, 8), np.stack([truth[i] for i in order]), 6, 10)


def test_default_probes_reach_the_recall(built):
    # Of 10 neighbours by brute force; .95 is aimed at, on other queries.
    index, rows = built
    queries = draw(16, 200, 8)
    _, found = index.search(queries, 10)
    _, all_ids = index.search(queries, 10, probes=40)
    both = [set(a) & set(b) for a, b in zip(np.asarray(found), np.asarray(all_ids), strict=True)]
    assert sum(map(len, both)) / 2_000 > 0.9
    assert index.probes < 40


def test_equal_vectors_come_in_the_order_of_ids():
    index = IVFIndex.build(np.ones((700, 8), np.float32), metric="euclidean", lists=40)
    _, ids = index.search(np.ones((2, 8), np.float32), 40)
    np.testing.assert_array_equal(ids, [np.arange(40)] * 2)


def test_distances_keep_their_digits_far_from_the_origin():
    rows, queries = 1000 + draw(18, 700, 8), 1000 + draw(19, 20, 8)
    check(IVFIndex.build(rows, metric="euclidean", lists=40), queries, rows, 7, 4)


def test_pages_are_not_padded_to_the_longest_list():
    assignments = np.r_[np.zeros(10_000, int), np.repeat(np.arange(1, 100), 100)]
    layout = lay_out(assignments, 100)
    assert layout.slots.size < 1.3 * len(assignments)
    assert sorted(layout.slots[layout.slots >= 0].tolist()) == list(range(len(assignments)))
    for number in (0, 1, 99):
        pages = layout.slots[layout.page_lists == number]
        first, count = layout.first_pages[number], layout.page_counts[number]
        np.testing.assert_array_equal(pages, layout.slots[first : first + count])
        inside = pages[pages >= 0]
        np.testing.assert_array_equal(inside, np.flatnonzero(assignments == number))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lists": 0}, "lists is 0"),
        ({"probes": 0}, "probes is 0"),
        ({"centroids": np.ones((2, 3))}, "centroids have shape"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IVFIndex.build(draw(20, 10, 2), **options)
