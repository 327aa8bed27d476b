import chex
import jax
import numpy as np
import optax
import pytest
from small_problem import AXES, init

from jaxembed.train import abstract_like, abstract_state, init_state, make_mesh, make_state


def test_state_is_created_on_its_shardings_with_values_that_do_not_depend_on_the_mesh(key):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    one = init_state(init, optimizer, make_mesh(devices=jax.devices()[:1]), key=key, axes=AXES)
    many = init_state(init, optimizer, make_mesh(2, 4), key=key, axes=AXES)
    chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(many))
    assert many.params["hidden"]["kernel"].addressable_shards[0].data.shape == (4, 2)
    assert many.step.sharding.is_fully_replicated


def test_optimizer_state_lies_as_its_parameters():
    mesh = make_mesh(2, 4)
    optimizer = optax.MultiSteps(optax.adamw(1e-2), 2).gradient_transformation()
    state = abstract_state(init, optimizer, mesh, axes=AXES)
    moments = state.opt_state.inner_opt_state[0]
    for tree in (moments.mu, moments.nu, state.opt_state.acc_grads):
        assert jax.tree.map(lambda leaf: leaf.sharding, tree) == jax.tree.map(
            lambda leaf: leaf.sharding, state.params
        )
    assert moments.count.sharding.is_fully_replicated


def test_abstract_state_is_what_init_state_creates(key):
    mesh, optimizer = make_mesh(4, 2), optax.adafactor(1e-2)
    created = init_state(init, optimizer, mesh, key=key, axes=AXES)
    chex.assert_trees_all_equal(
        abstract_like(created), abstract_state(init, optimizer, mesh, axes=AXES)
    )


def test_state_without_optimizer_keeps_none():
    state = make_state({"table": np.ones((2, 2))})
    assert state.opt_state == () and int(state.step) == 0


def test_axes_of_another_tree_are_rejected(key):
    with pytest.raises(ValueError, match="out"):
        init_state(init, None, make_mesh(), key=key, axes={"hidden": AXES["hidden"]})
