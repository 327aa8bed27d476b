import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import AXES, init, make_batches

from jaxembed.train import (
    abstract_like,
    abstract_state,
    init_state,
    latest_step,
    make_mesh,
    make_state,
    restore,
    restore_params,
    save,
    save_params,
)

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def test_checkpoint_moves_between_topologies(key, tmp_path):
    state = init_state(init, OPTIMIZER, make_mesh(2, 4), key=key, axes=AXES)
    save(tmp_path, 7, state)
    expected = jax.device_get(state)
    expected = type(state)(np.int32(7), expected.params, expected.opt_state)
    for mesh in (make_mesh(4, 2), make_mesh(devices=jax.devices()[:1]), make_mesh(8)):
        target = abstract_state(init, OPTIMIZER, mesh, axes=AXES)
        restored = restore(tmp_path, target)
        chex.assert_trees_all_equal(jax.device_get(restored), expected)
        chex.assert_trees_all_equal(abstract_like(restored), target)
        assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_parts_are_separate_and_params_can_stand_alone(key, tmp_path):
    state = make_state(init(key), OPTIMIZER)
    save(tmp_path, 3, state, data=iter(make_batches()))
    parts = {path.name for path in (tmp_path / "steps" / "3").iterdir() if path.is_dir()}
    assert parts == {"params", "opt_state", "data"}
    save_params(tmp_path / "shipped", 3, state.params)
    for directory in (tmp_path, tmp_path / "shipped"):
        chex.assert_trees_all_equal(restore_params(directory, state.params), state.params)
    with pytest.raises(KeyError, match="no 'opt_state'.*restore_params"):
        restore(tmp_path / "shipped", state)


def test_states_with_masks_keys_short_floats_and_nothing_come_back(key, tmp_path):
    params = {"a": jnp.ones((3,), jnp.bfloat16), "b": [jnp.ones((2, 2)), jnp.zeros(())]}
    mask = {"a": False, "b": [True, True]}
    optimizer = optax.chain(optax.masked(optax.adam(0.1), mask), optax.add_noise(0.1, 0.5, key))
    for step, state in enumerate([make_state(params, optimizer), make_state(params)]):
        save(tmp_path, step, state)
        restored = restore(tmp_path, state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        chex.assert_trees_all_equal(restored.params, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(restored.opt_state, state.opt_state)


def test_data_iterator_continues_where_it_was(key, tmp_path):
    data = iter(make_batches())
    for _ in range(3):
        next(data)
    state = make_state(init(key))
    save(tmp_path, 3, state, data=data)
    expected = [next(data) for _ in range(4)]
    other = iter(make_batches())
    restore(tmp_path, state, data=other)
    chex.assert_trees_all_equal([next(other) for _ in range(4)], expected)


def test_keep_leaves_the_newest(key, tmp_path):
    state = make_state(init(key))
    for step in (1, 5, 10):
        save(tmp_path, step, state, keep=2)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["10", "5"]
    assert latest_step(tmp_path) == 10
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, 11, state, keep=0)
    with pytest.raises(ValueError, match="exists already"):
        save(tmp_path, 10, state)


def test_unfinished_checkpoint_is_ignored_and_cleaned(key, tmp_path):
    state = make_state(init(key))
    save(tmp_path, 1, state)
    half = tmp_path / "steps" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "steps" / "1", half)
    (tmp_path / "steps" / "0.deleted").mkdir()
    assert latest_step(tmp_path) == 1
    assert int(restore(tmp_path, state).step) == 1
    save(tmp_path, 2, state)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["1", "2"]


def test_mismatch_names_what_came_and_what_was_wanted(key, tmp_path):
    state = make_state(init(key), OPTIMIZER)
    save(tmp_path, 1, state)
    wider = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape + (2,)), state.params)
    with pytest.raises(ValueError, match=r"out: float32\[8\] stored, float32\[8,2\] wanted"):
        restore_params(tmp_path, wider)
    with pytest.raises(ValueError, match=r"out: float32\[8\] stored, bfloat16\[8\] wanted"):
        restore_params(tmp_path, optax.tree.cast(state.params, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"extra: missing stored, float32\[1\] wanted"):
        restore_params(tmp_path, state.params | {"extra": jnp.zeros((1,))})
    with pytest.raises(ValueError, match=r"out: float32\[8\] stored, nothing wanted"):
        restore_params(tmp_path, {"hidden": state.params["hidden"]})
    with pytest.raises(KeyError, match=r"No checkpoint of step 4 in .*steps \[1\]"):
        restore(tmp_path, state, step=4)
    with pytest.raises(KeyError, match="No checkpoint in"):
        restore(tmp_path / "nowhere", state)
    assert latest_step(tmp_path / "nowhere") is None


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_failed_write_is_an_error_that_keeps_the_previous_checkpoint(key, tmp_path):
    small = make_state({"table": jnp.ones((2, 2))})
    save(tmp_path, 1, small)
    large = make_state({"table": jax.random.normal(key, (1000, 1000))})
    # A limit on the size of a file stands for a full disk: both fail inside the same write.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="step 2 could not be written.*step 1 is kept"):
            save(tmp_path, 2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["1"]
    chex.assert_trees_all_equal(restore(tmp_path, small).params, small.params)
    save(tmp_path, 2, large)
    assert latest_step(tmp_path) == 2
