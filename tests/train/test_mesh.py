import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxembed.train import logical_sharding, make_mesh, put_batch, put_tree, tree_shardings


def test_make_mesh_takes_all_devices_that_model_leaves():
    assert dict(make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(make_mesh(model=4).shape) == {"data": 2, "model": 4}
    assert dict(make_mesh(1, devices=jax.devices()[:1]).shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize(("data", "model"), [(3, 2), (None, 3), (None, 0), (0, 8), (None, 16)])
def test_make_mesh_rejects_counts_that_do_not_fit(data, model):
    with pytest.raises(ValueError, match="8: choose counts"):
        make_mesh(data, model)


def test_logical_axes_lie_on_their_mesh_axes():
    mesh = make_mesh(model=2)
    assert logical_sharding(mesh, ("batch", "length", "dim")).spec == PartitionSpec(
        "data", None, None
    )
    assert logical_sharding(mesh, ("dim", "heads", None)).spec == PartitionSpec(None, "model", None)
    assert logical_sharding(mesh, ()).spec == PartitionSpec()


def test_unknown_axis_names_the_nearest():
    with pytest.raises(KeyError, match="'widht', nearest is 'width'"):
        logical_sharding(make_mesh(), ("dim", "widht"))


def test_two_axes_on_one_mesh_axis_clash():
    with pytest.raises(ValueError, match="Clashing axes"):
        logical_sharding(make_mesh(), ("vocab", "width"))


def test_tree_is_cut_as_its_axes_say():
    mesh = make_mesh(model=4)
    tree = {"table": np.arange(24.0).reshape(8, 3), "scale": np.ones(())}
    placed = put_tree(mesh, tree, {"table": ("vocab", "dim"), "scale": ()})
    assert placed["table"].addressable_shards[0].data.shape == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, placed, tree)


def test_tree_that_does_not_divide_names_the_array():
    table = {"embed": {"table": np.ones((7, 3))}}
    with pytest.raises(ValueError, match="embed/table: vocab = 7 does not divide by the 4"):
        tree_shardings(make_mesh(model=4), table, {"embed": {"table": ("vocab", "dim")}})
    with pytest.raises(ValueError, match="at most one name a dimension"):
        tree_shardings(make_mesh(), table, {"embed": {"table": ("batch", None, None)}})


def test_batch_is_spread_over_data_or_copied():
    mesh = make_mesh(model=2)
    batch = {"rows": np.arange(8.0).reshape(8, 1), "scale": np.float32(2)}
    spread, copied = put_batch(mesh, batch), put_batch(mesh, batch, None)
    assert spread["rows"].addressable_shards[0].data.shape == (2, 1)
    assert copied["rows"].sharding.is_fully_replicated
    for placed in (spread, copied, put_batch(None, batch)):
        jax.tree.map(np.testing.assert_array_equal, placed, batch)
    with pytest.raises(ValueError, match="6 rows does not divide over 4"):
        put_batch(mesh, {"rows": np.ones((6, 1))})
