import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxembed.search import ExactIndex
from jaxembed.search.sharded import shard_rows, sharded_search

METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mesh_of(devices):
    return jax.make_mesh(
        (devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,)
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("devices", "count", "k"), [(8, 64, 5), (8, 61, 20), (2, 7, 9), (8, 3, 3)])
def test_equals_one_device(metric, devices, count, k):
    vectors, queries = draw(0, count, 6), draw(1, 5, 6)
    index = ExactIndex.build(vectors, metric=metric, ids=np.arange(count)[::-1])
    spread = shard_rows(index, mesh_of(devices))
    if count % devices == 0:
        assert len({str(shard.index) for shard in spread.vectors.addressable_shards}) == devices
    scores, ids = sharded_search(spread, queries, k, mesh=mesh_of(devices), where=(0, 50))
    expected_scores, expected_ids = index.search(queries, k, where=(0, 50))
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_equal_vectors_come_in_order_whatever_the_devices():
    index = ExactIndex.build(np.ones((40, 3)), ids=np.random.default_rng(2).permutation(40))
    for devices in (1, 8):
        _, ids = sharded_search(index, np.ones((2, 3)), 40, mesh=mesh_of(devices))
        np.testing.assert_array_equal(ids, [index.ids, index.ids])


def test_queries_spread_over_devices_find_the_same():
    index = ExactIndex.build(draw(3, 50, 6))
    queries = draw(4, 16, 6)
    mesh = mesh_of(8)
    spread = jax.device_put(queries, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(index, NamedSharding(mesh, PartitionSpec()))
    chex.assert_trees_all_equal(everywhere.search(spread, 4), index.search(queries, 4))


def test_works_inside_jit():
    index, queries, mesh = ExactIndex.build(draw(5, 48, 6)), draw(6, 3, 6), mesh_of(8)
    search = jax.jit(lambda x, index: sharded_search(index, 2 * x, 4, mesh=mesh)[1])
    np.testing.assert_array_equal(
        search(jnp.asarray(queries), shard_rows(index, mesh)), index.search(2 * queries, 4)[1]
    )


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="not 'rows'"):
        sharded_search(
            ExactIndex.build(np.ones((2, 2))), np.ones((1, 2)), 1, mesh=mesh_of(1), axis="rows"
        )
