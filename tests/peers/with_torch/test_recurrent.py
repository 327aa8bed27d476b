"""Recurrent layers give the outputs and gradients of torch's packed sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.nn import RecurrentStack

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

LENGTHS = [7, 1, 4, 6, 2]


def as_parameters(module, layers, bidirectional):
    params = {}
    for layer in range(layers):
        for name, ending in [("forward", "")] + [("backward", "_reverse")] * bidirectional:
            weights = {
                ours: getattr(module, f"{theirs}_l{layer}{ending}").detach().numpy()
                for ours, theirs in [
                    ("input_kernel", "weight_ih"),
                    ("state_kernel", "weight_hh"),
                    ("input_bias", "bias_ih"),
                    ("state_bias", "bias_hh"),
                ]
            }
            params[f"{name}_{layer}"] = {n: w.T if w.ndim == 2 else w for n, w in weights.items()}
    return params


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_outputs_and_gradients_equal_packed_sequences(cell, bidirectional):
    torch.manual_seed(0)
    kind = torch.nn.GRU if cell == "gru" else torch.nn.LSTM
    module = kind(5, 8, 2, batch_first=True, bidirectional=bidirectional)
    inputs = np.random.default_rng(0).normal(0, 1, (5, 7, 5)).astype(np.float32)
    given = torch.tensor(inputs, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        given, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    outputs, final = module(packed)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    final = (final,) if cell == "gru" else final
    weight = np.random.default_rng(1).normal(0, 1, outputs.shape).astype(np.float32)
    total = (outputs * torch.tensor(weight)).sum() + sum((part**2).sum() for part in final)
    total.backward()

    stack = RecurrentStack(8, 2, cell, bidirectional)

    def run(params, inputs):
        got, states = stack.apply({"params": params}, inputs, jnp.asarray(LENGTHS))
        value = jnp.sum(got * weight)
        value += sum(jnp.sum(part**2) for state in states for part in state)
        return value, (got, states)

    params = as_parameters(module, 2, bidirectional)
    gradients, (got, states) = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(params, inputs)
    np.testing.assert_allclose(got, outputs.detach().numpy(), atol=1e-6)
    for layer in range(2):
        for part, theirs in zip(states[layer], final, strict=True):
            ways = theirs.detach().numpy().reshape(2, -1, 5, 8)[layer]
            np.testing.assert_allclose(part, np.concatenate(list(ways), axis=1), atol=1e-6)
    np.testing.assert_allclose(gradients[1], given.grad.numpy(), atol=1e-5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.grad)
    wanted = as_parameters(module, 2, bidirectional)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients[0], wanted)
