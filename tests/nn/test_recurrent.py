"""Recurrent layers against a loop in numpy, and padding that never reaches a result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from random_params import QUICKLY, draw_params

from jaxembed.nn import Recurrent, RecurrentStack

pytestmark = pytest.mark.usefixtures("strict_dtypes")
LENGTHS = jnp.asarray([5, 1, 0, 3])


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def loop(cell, parameters, inputs, width, reverse):
    """States after each step of one sequence without padding, step by step in float64."""
    p = {name: np.float64(value) for name, value in parameters.items()}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    hidden = memory = np.zeros(width)
    outputs = np.zeros((len(inputs), width))
    for place in reversed(range(len(inputs))) if reverse else range(len(inputs)):
        from_inputs = inputs[place] @ p["input_kernel"] + p["input_bias"]
        from_state = hidden @ p["state_kernel"] + p["state_bias"]
        if cell == "gru":
            r, z, n = np.split(from_inputs, 3)
            r_state, z_state, n_state = np.split(from_state, 3)
            update = sigmoid(z + z_state)
            new = np.tanh(n + sigmoid(r + r_state) * n_state)
            hidden = (1 - update) * new + update * hidden
        else:
            i, f, g, o = np.split(from_inputs + from_state, 4)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(memory)
        outputs[place] = hidden
    return outputs, (hidden,) if cell == "gru" else (hidden, memory)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("reverse", [False, True])
def test_layer_equals_a_loop_over_real_steps(cell, reverse):
    layer, inputs = Recurrent(3, cell, reverse), draw(0, 4, 5, 2)
    variables = draw_params(layer, inputs, LENGTHS)
    outputs, state = jax.jit(layer.apply, compiler_options=QUICKLY)(variables, inputs, LENGTHS)
    for item, length in enumerate(LENGTHS):
        wanted, final = loop(
            cell, variables["params"], np.asarray(inputs[item, :length]), 3, reverse
        )
        np.testing.assert_allclose(outputs[item, :length], wanted, atol=1e-6)
        assert not np.any(outputs[item, length:])
        for got, part in zip(state, final, strict=True):
            np.testing.assert_allclose(got[item], part, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_padding_leaves_every_bit_of_a_bidirectional_stack(cell):
    stack = RecurrentStack(4, 2, cell, bidirectional=True)
    inputs = draw(0, 4, 5, 2)
    variables = draw_params(stack, inputs, LENGTHS)
    run = jax.jit(stack.apply, compiler_options=QUICKLY)
    outputs, states = run(variables, inputs, LENGTHS)
    padded = jnp.concatenate([inputs, draw(1, 4, 7, 2)], axis=1)
    is_padding = jnp.arange(12)[None] >= LENGTHS[:, None]
    padded = jnp.where(is_padding[..., None], 100 * draw(2, 4, 12, 2), padded)
    more, same = run(variables, padded, LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, states, same)
    np.testing.assert_array_equal(more[:, :5], outputs)
    assert not np.any(more[:, 5:])


def test_steps_equal_a_run_and_gradients_their_differences():
    stack = RecurrentStack(3, 2, "lstm")
    inputs = draw(0, 2, 3, 2)
    variables = draw_params(stack, inputs)
    outputs, states = stack.apply(variables, inputs)
    state = jax.tree.map(jnp.zeros_like, states)
    for place in range(3):
        output, state = stack.apply(variables, inputs[:, place], state, method="step")
        np.testing.assert_allclose(output, outputs[:, place], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), states, state)

    both, lengths = RecurrentStack(3, 1, "gru", bidirectional=True), jnp.asarray([3, 2])
    variables = draw_params(both, inputs, lengths)

    @jax.jit
    def total(inputs):
        return jnp.sum(both.apply(variables, inputs, lengths)[0] ** 2)

    check_grads(
        lambda x: total(jnp.asarray(x)), (inputs,), order=1, modes=["rev"], rtol=2e-2, atol=2e-2
    )
    assert not np.any(jax.grad(total)(inputs)[1, 2])


def test_dropout_lies_between_layers_only(key):
    inputs = draw(0, 2, 3, 2)
    for layers in (1, 2):
        stack = RecurrentStack(3, layers, dropout=0.5)
        variables = draw_params(stack, inputs)
        sure, _ = stack.apply(variables, inputs)
        drawn, _ = stack.apply(variables, inputs, deterministic=False, rngs={"dropout": key})
        assert np.array_equal(sure, drawn) == (layers == 1)


def test_what_makes_no_layer_is_refused(key):
    with pytest.raises(ValueError, match="Unknown cell 'rnn'"):
        Recurrent(3, "rnn").init(key, draw(0, 2, 3, 2))
    stack = RecurrentStack(3, bidirectional=True)
    with pytest.raises(ValueError, match="starts from zeros"):
        stack.init(key, draw(0, 2, 3, 2), None, ((jnp.zeros((2, 3)),),))
