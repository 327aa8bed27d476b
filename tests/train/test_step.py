import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from small_problem import AXES, init, loss_fn, make_batch

from jaxembed.train import (
    abstract_state,
    gradient_step,
    init_state,
    make_mesh,
    make_state,
    put_batch,
)


def run(mesh, key, optimizer, steps=3, axes=AXES):
    state = init_state(init, optimizer, mesh, key=key, axes=axes)
    step = jax.jit(gradient_step(loss_fn, optimizer, key=key))
    metrics = []
    for index in range(steps):
        state, values = step(state, put_batch(mesh, make_batch(index)))
        metrics.append(values)
    return jax.device_get((state, metrics))


def test_step_equals_gradient_descent_by_hand(key):
    state = make_state(init(key), optax.sgd(0.1))
    batch = make_batch(0)
    new, metrics = gradient_step(loss_fn, optax.sgd(0.1), key=key)(state, batch)
    step_key = jax.random.fold_in(key, 0)
    (loss, _), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, step_key)
    expected = jax.tree.map(lambda param, gradient: param - 0.1 * gradient, state.params, gradients)
    # One rounding more or less in `param - 0.1 * gradient`.
    chex.assert_trees_all_close(new.params, expected, rtol=1e-6, atol=1e-7)
    assert int(new.step) == 1
    np.testing.assert_allclose(metrics["loss"][0], loss)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(metrics["gradient_norm"][0], squares**0.5, rtol=1e-6)
    assert set(metrics) == {"loss", "gradient_norm", "squared_error", "rows"}


def test_key_differs_from_step_to_step(key):
    def loss(params, batch, step_key):
        return jnp.sum(params) * 0, {"drawn": (jax.random.uniform(step_key), 1)}

    step = gradient_step(loss, optax.sgd(0.1), key=key)
    state, first = step(make_state(jnp.ones((1,)), optax.sgd(0.1)), None)
    _, second = step(state, None)
    assert float(first["drawn"][0]) != float(second["drawn"][0])


def test_eight_devices_equal_one(key):
    one = run(make_mesh(devices=jax.devices()[:1]), key, optax.adam(1e-2))
    for data, model in ((8, 1), (2, 4)):
        many = run(make_mesh(data, model), key, optax.adam(1e-2))
        # Sums over the batch are taken in another order.
        chex.assert_trees_all_close(one, many, rtol=1e-4, atol=1e-6)


def test_accumulated_steps_equal_one_large_batch(key):
    def noiseless(params, batch, _):
        return loss_fn(params, batch, jax.random.key(0))

    accumulating = optax.MultiSteps(optax.adam(1e-2), 4).gradient_transformation()
    small = make_state(init(key), accumulating)
    large = make_state(init(key), optax.adam(1e-2))
    batches = [make_batch(index) for index in range(4)]
    step = jax.jit(gradient_step(noiseless, accumulating, key=key))
    for batch in batches:
        small, _ = step(small, batch)
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    large, _ = jax.jit(gradient_step(noiseless, optax.adam(1e-2), key=key))(large, together)
    # Adam divides by the gradient's own size, which magnifies rounding.
    chex.assert_trees_all_close(small.params, large.params, rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_keeps_float32_parameters(key):
    def short_loss(params, batch, step_key):
        params, batch = optax.tree.cast((params, batch), jnp.bfloat16)
        loss, metrics = loss_fn(params, batch, step_key)
        return loss.astype(jnp.float32), metrics

    state = make_state(init(key), optax.sgd(0.1))
    short, _ = gradient_step(short_loss, optax.sgd(0.1), key=key)(state, make_batch(0))
    full, _ = gradient_step(loss_fn, optax.sgd(0.1), key=key)(state, make_batch(0))
    chex.assert_trees_all_equal_dtypes(short, full)
    # bfloat16 has 8 bits; the updates are of the order 0.1.
    chex.assert_trees_all_close(short.params, full.params, atol=0.02)


def test_step_runs_under_pmap(key):
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "devices"))
    optimizer = optax.chain(mean, optax.sgd(0.1))
    batch = make_batch(0, rows=16)
    expected, _ = gradient_step(loss_fn, optax.sgd(0.1), key=key)(
        make_state(init(key), optax.sgd(0.1)), batch
    )
    step = jax.pmap(gradient_step(loss_fn, optimizer, key=key), axis_name="devices")
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), make_state(init(key), optimizer))
    split = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), batch)
    states, metrics = step(states, split)
    # Means over devices of means over rows: another order of summation.
    for leaf, wanted in zip(
        jax.tree.leaves(states.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(leaf, np.stack([wanted] * 8), rtol=1e-5, atol=1e-6)
    assert metrics["rows"][0].tolist() == [2.0] * 8


def test_step_lowers_for_cpu_cuda_and_tpu(key):
    mesh, optimizer = make_mesh(2, 4), optax.adamw(1e-2)
    state = abstract_state(init, optimizer, mesh, axes=AXES)
    step = jax.jit(gradient_step(loss_fn, optimizer, key=key), donate_argnums=0)
    exported = jax.export.export(step, platforms=["cpu", "cuda", "tpu"])(state, make_batch(0))
    assert exported.platforms == ("cpu", "cuda", "tpu") and exported.nr_devices == 8
