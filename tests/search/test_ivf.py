import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.inverted import search_lists

from jaxembed.search import IVFIndex
from jaxembed.search.inverted import lay_out

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


@pytest.fixture(scope="module", params=METRICS)
def built(request):
    rows = draw(0, 700, 8)
    ids = np.random.default_rng(1).permutation(5_000)[:700]
    return IVFIndex.build(rows, metric=request.param, lists=40, ids=ids), rows


@pytest.mark.parametrize("probes", [1, 3, 40])
def test_equals_scoring_the_probed_lists(built, probes):
    index, rows = built
    check(index, draw(2, 20, 8), rows, 7, probes)


def test_more_lists_than_a_round_takes_of_very_unequal_lengths(built):
    # All but 40 vectors lie in one list, which alone fills a round.
    index, _ = built
    rows = np.concatenate([draw(3, 40, 8), 0.01 * draw(4, 300, 8) + 3.0])
    centroids = np.concatenate([rows[:40], np.full((1, 8), 3.0, np.float32)])
    skewed = IVFIndex.build(rows, metric=index.metric, centroids=centroids)
    assert skewed.longest > 2 * skewed.slots.shape[0] / 41
    check(skewed, draw(5, 3, 8), rows, 50, 41)


def test_where_comes_before_k(built):
    index, rows = built
    mask = np.random.default_rng(6).random(700) < 0.1
    check(index, draw(7, 5, 8), rows, 9, 20, where=mask)
    _, ids = index.search(draw(7, 5, 8), 9, probes=40, where=(1_000, 1_500))
    found = np.asarray(ids)
    assert ((found >= 1_000) & (found < 1_500)).all()


def test_fewer_than_k_are_padded(built):
    index, _ = built
    scores, ids = index.search(draw(8, 2, 8), 800, probes=40)
    assert (np.asarray(ids)[:, 700:] == -1).all() and (np.asarray(ids)[:, :700] >= 0).all()
    worst = np.inf if index.metric == "euclidean" else -np.inf
    assert (np.asarray(scores)[:, 700:] == worst).all()


def test_a_query_of_nan_finds_nothing(built):
    index, _ = built
    queries = draw(9, 3, 8)
    queries[1, 2] = np.nan
    _, ids = index.search(queries, 4)
    assert (np.asarray(ids)[1] == -1).all() and (np.asarray(ids)[[0, 2]] >= 0).all()


def test_probes_are_chosen_without_compiling(built):
    index, _ = built
    counted = jax.jit(chex.assert_max_traces(lambda q, p: index.search(q, 5, probes=p), n=1))
    queries = jnp.asarray(draw(10, 6, 8))
    counts = [int((counted(queries, probes)[1] >= 0).sum()) for probes in (1, 2, 40)]
    assert counts == sorted(counts)
    chex.clear_trace_counter()


def test_inside_jit_and_vmap(built):
    index, _ = built
    queries = jnp.asarray(draw(11, 5, 8))
    one = jax.jit(jax.vmap(lambda index, q: index.search(2.0 * q[None], 3)[1][0], (None, 0)))
    np.testing.assert_array_equal(one(index, queries), index.search(2.0 * queries, 3)[1])


def test_sharded_queries_find_the_same(built):
    index, _ = built
    queries = jnp.asarray(draw(12, 16, 8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(queries, jax.NamedSharding(mesh, jax.P("data")))
    everywhere = jax.device_put(index, jax.NamedSharding(mesh, jax.P()))
    np.testing.assert_array_equal(everywhere.search(spread, 6)[1], index.search(queries, 6)[1])


def test_many_queries_equal_few(built):
    index, _ = built
    queries = jnp.asarray(draw(13, 1_100, 8))
    scores, ids = index.search(queries, 3)
    np.testing.assert_array_equal(ids[700:703], index.search(queries[700:703], 3)[1])
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


def test_saved_and_loaded_is_the_same(built, tmp_path):
    index, _ = built
    index.save(tmp_path / "index")
    chex.assert_trees_all_equal(IVFIndex.load(tmp_path / "index"), index)


def test_default_probes_reach_the_recall(built):
    # Of 10 neighbours by brute force; .95 is aimed at, on other queries.
    index, rows = built
    queries = draw(16, 200, 8)
    _, found = index.search(queries, 10)
    _, all_ids = index.search(queries, 10, probes=40)
    both = [set(a) & set(b) for a, b in zip(np.asarray(found), np.asarray(all_ids), strict=True)]
    assert sum(map(len, both)) / 2_000 > 0.9
    assert index.probes < 40


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_few_vectors(metric, size):
    rows = draw(17, size, 3)
    index = IVFIndex.build(rows, metric=metric)
    _, ids = index.search(rows, size + 1, probes=9)
    assert (np.sort(np.asarray(ids), axis=1) == np.r_[-1, np.arange(size)]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_come_in_the_order_of_ids(metric):
    index = IVFIndex.build(np.ones((300, 3), np.float32), metric=metric)
    _, ids = index.search(np.ones((2, 3), np.float32), 40)
    np.testing.assert_array_equal(ids, [np.arange(40)] * 2)


def test_distances_keep_their_digits_far_from_the_origin():
    rows, queries = 1000 + draw(18, 300, 8), 1000 + draw(19, 10, 8)
    check(IVFIndex.build(rows, metric="euclidean", lists=9), queries, rows, 5, 4)


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


def test_lowers_for_every_platform(built):
    index = built[0]
    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    lowered = jax.jit(lambda index, q, p: index.search(q, 5, probes=p))
    platforms = ("cpu", "cuda", "tpu")
    # Exported functions take plain trees: an index is not registered for writing them.
    names = [field.name for field in dataclasses.fields(index)]
    assert "centroids" in names
    leaves, tree = jax.tree.flatten(index)
    run = jax.jit(lambda leaves, q, p: lowered(jax.tree.unflatten(tree, leaves), q, p))
    assert jax.export.export(run, platforms=platforms)(leaves, shape, 3).platforms == platforms
