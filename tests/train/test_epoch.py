"""An epoch as one compiled step: against steps by hand, resumed, and over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import init, make_batch

from jaxembed.train import (
    EpochNumbers,
    gradient_step,
    latest_step,
    make_epoch_step,
    make_mesh,
    make_state,
    train,
    with_step,
)

OPTIMIZER = optax.adam(1e-2)
DATA = make_batch(0, 21)  # three batches of 8, the last with padding


def loss_fn(params, batch, key):
    """Masked squared error with noise; its metrics show step and rows."""
    hidden = batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    noise = 1 + 0.1 * jax.random.normal(key, (8,))
    errors = jnp.where(batch["mask"], (jnp.tanh(hidden) * noise[None]) @ params["out"], 0.0)
    errors -= jnp.where(batch["mask"], batch["y"], 0.0)
    count = jnp.sum(batch["mask"]).astype(jnp.float32)
    total = jnp.sum(errors**2)
    return total / count, {"rows": (count, 1), "steps": (batch["step"], 1), "error": (total, count)}


STEP = with_step(gradient_step(loss_fn, OPTIMIZER, key=jax.random.key(0)))


def fresh_state():
    return make_state(init(jax.random.key(0)), OPTIMIZER)


def epoch_step(**options):
    return make_epoch_step(STEP, DATA, batch_size=8, key=jax.random.key(7), **options)


def test_unshuffled_epoch_equals_its_steps_by_hand():
    state = fresh_state()
    for start in (0, 8, 16):
        rows = {name: np.zeros((8, *values.shape[1:]), np.float32) for name, values in DATA.items()}
        mask = np.arange(start, start + 8) < 21
        for name, values in DATA.items():
            rows[name][mask] = values[start : start + 8]
        state, _ = jax.jit(STEP)(state, rows | {"mask": mask})
    epoch, metrics = jax.jit(epoch_step(shuffle=False))(fresh_state(), {"epoch": np.int32(0)})
    chex.assert_trees_all_close(epoch.params, state.params, rtol=1e-5, atol=1e-6)
    assert epoch.step == 1 and metrics["rows"] == (21, 3) and metrics["steps"] == (0 + 1 + 2, 3)


def test_resumed_run_equals_straight_run_and_epochs_differ(tmp_path):
    straight = train(epoch_step(), fresh_state(), EpochNumbers(), steps=4, batch_axis=None)
    options = {"batch_axis": None, "checkpoint_dir": tmp_path}
    train(epoch_step(), fresh_state(), EpochNumbers(), steps=2, **options)
    assert latest_step(tmp_path) == 2
    resumed = train(epoch_step(), fresh_state(), EpochNumbers(4), steps=4, **options)
    chex.assert_trees_all_equal(resumed, straight)
    first, second = (
        jax.jit(epoch_step())(fresh_state(), {"epoch": np.int32(epoch)})[0].params
        for epoch in (0, 1)
    )
    assert np.any(first["out"] != second["out"])


def test_eight_devices_end_where_one_does():
    one = train(epoch_step(), fresh_state(), EpochNumbers(3), batch_axis=None)
    mesh = make_mesh()
    many = train(epoch_step(mesh=mesh), fresh_state(), EpochNumbers(3), batch_axis=None, mesh=mesh)
    chex.assert_trees_all_close(many.params, one.params, rtol=1e-5, atol=1e-6)


def test_data_that_fit_no_batches_are_refused():
    for data in ({}, {"x": np.zeros((0, 2))}, {"x": np.zeros(3), "y": np.zeros(4)}):
        with pytest.raises(ValueError, match="data has"):
            make_epoch_step(STEP, data, batch_size=8, key=jax.random.key(0))
    with pytest.raises(ValueError, match="batch_size is 0"):
        make_epoch_step(STEP, DATA, batch_size=0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="does not divide over 8"):
        make_epoch_step(STEP, DATA, batch_size=4, key=jax.random.key(0), mesh=make_mesh())
    with pytest.raises(ValueError, match="epochs is 0"):
        EpochNumbers(0)
