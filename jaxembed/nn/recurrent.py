"""GRU and LSTM layers over sequences of different lengths."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Cell = Literal["gru", "lstm"]
State = tuple[Array, ...]  # (hidden,) of a GRU, (hidden, cell) of an LSTM; [batch, width] each


class Recurrent(nn.Module):
    """One layer in one direction.

    The parameters are those of torch's GRU and LSTM, transposed: `input_kernel` is
    `weight_ih_l0.T`, `state_kernel` is `weight_hh_l0.T`, the biases keep their shape; gates in the
    order reset, update, new (GRU) or input, forget, cell, output (LSTM).

    A padded step leaves the state as it was and puts out zeros, so that neither the number of
    padded steps nor what they hold can reach a result; every step is computed by itself and
    results are equal to the bit.

    Attributes:
        width: Size of the state.
        cell: "gru" or "lstm".
        reverse: From the last real step to the first, so that the final state is at the first.

    Reference: Cho et al., 2014, https://arxiv.org/abs/1406.1078 (with torch's reset after the
    product, as in cuDNN); Hochreiter and Schmidhuber, 1997.
    """

    width: int
    cell: str = "gru"
    reverse: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch length dim"],
        lengths: Int[Array, "batch"] | None = None,
        state: State | None = None,
    ) -> tuple[Float[Array, "batch length width"], State]:
        """Runs over sequences.

        Args:
            inputs: The sequences, padded behind.
            lengths: Real steps of each, from 0 to `length`; None if all are whole.
            state: State before the first step; None for zeros.

        Returns:
            The hidden state after each step, 0 at padded ones, and the state after the last.
        """
        advance, parameters = self._cell(inputs.shape[-1])
        batch, length, _ = inputs.shape
        if state is None:
            state = self.start(batch, inputs.dtype)
        if lengths is None:
            lengths = jnp.full(batch, length, jnp.int32)

        def step(state, now):
            place, values = now
            is_real = (place < lengths)[:, None]
            new = advance(parameters, values, state)
            new = tuple(jnp.where(is_real, a, b) for a, b in zip(new, state, strict=True))
            return new, jnp.where(is_real, new[0], 0)

        steps = (jnp.arange(length), jnp.moveaxis(inputs, 1, 0))
        state, outputs = lax.scan(step, state, steps, reverse=self.reverse)
        return jnp.moveaxis(outputs, 0, 1), state

    @nn.compact
    def step(self, inputs: Float[Array, "batch dim"], state: State) -> State:
        """Runs one step of every sequence."""
        advance, parameters = self._cell(inputs.shape[-1])
        return advance(parameters, inputs, state)

    def start(self, batch: int, dtype: Any = jnp.float32) -> State:
        """A state of zeros."""
        return (jnp.zeros((batch, self.width), dtype),) * (2 if self.cell == "lstm" else 1)

    def _cell(self, dim: int) -> tuple[Callable, dict[str, Array]]:
        if self.cell not in get_args(Cell):
            raise ValueError(f"Unknown cell {self.cell!r}: choose one of {', '.join(_GATES)}.")
        gates = _GATES[self.cell] * self.width
        shapes = {
            "input_kernel": (dim, gates),
            "state_kernel": (self.width, gates),
            "input_bias": (gates,),
            "state_bias": (gates,),
        }
        bound = self.width**-0.5

        def init(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        parameters = {name: self.param(name, init, shape) for name, shape in shapes.items()}
        return (gru_step if self.cell == "gru" else lstm_step), parameters


_GATES = {"gru": 3, "lstm": 4}


def gru_step(
    parameters: dict[str, Array], inputs: Float[Array, "batch dim"], state: State
) -> State:
    """One step of a gated recurrent unit; parameters as in `Recurrent`."""
    (hidden,) = state
    from_inputs = inputs @ parameters["input_kernel"] + parameters["input_bias"][None]
    from_state = hidden @ parameters["state_kernel"] + parameters["state_bias"][None]
    reset_in, update_in, new_in = jnp.split(from_inputs, 3, axis=-1)
    reset_state, update_state, new_state = jnp.split(from_state, 3, axis=-1)
    reset = jax.nn.sigmoid(reset_in + reset_state)
    update = jax.nn.sigmoid(update_in + update_state)
    new = jnp.tanh(new_in + reset * new_state)
    return ((1 - update) * new + update * hidden,)


def lstm_step(
    parameters: dict[str, Array], inputs: Float[Array, "batch dim"], state: State
) -> State:
    """One step of a long short-term memory; parameters as in `Recurrent`."""
    hidden, cell = state
    gates = inputs @ parameters["input_kernel"] + hidden @ parameters["state_kernel"]
    gates = gates + (parameters["input_bias"] + parameters["state_bias"])[None]
    enter, keep, new, leave = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


class RecurrentStack(nn.Module):
    """Layers on top of one another, each in one direction or in both.

    Attributes:
        width: Size of the state of each layer and direction.
        layers: How many layers.
        cell: "gru" or "lstm".
        bidirectional: Read both ways and put the outputs side by side, forward first.
        dropout: Probability of dropping an output on its way to the next layer, drawn anew at
            every step.
    """

    width: int
    layers: int = 1
    cell: str = "gru"
    bidirectional: bool = False
    dropout: float = 0.0

    def setup(self):
        """One module a layer and direction."""
        self.forward = [Recurrent(self.width, self.cell) for _ in range(self.layers)]
        if self.bidirectional:
            self.backward = [Recurrent(self.width, self.cell, True) for _ in range(self.layers)]
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        inputs: Float[Array, "batch length dim"],
        lengths: Int[Array, "batch"] | None = None,
        states: tuple[State, ...] | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch length width"], tuple[State, ...]]:
        """Runs all layers over sequences.

        Args:
            inputs: The sequences, padded behind.
            lengths: Real steps of each; None if all are whole.
            states: State of each layer before the first step, for a stack in one direction; None
                for zeros.
            deterministic: False drops, and needs a random key named "dropout".

        Returns:
            The outputs of the last layer, 0 at padded steps, and each layer's final state: of a
            bidirectional one both directions side by side.

        Raises:
            ValueError: If states are given to a bidirectional stack.
        """
        if states is not None and self.bidirectional:
            raise ValueError("A bidirectional stack starts from zeros: leave `states` out.")
        outputs, finals = inputs, []
        for layer in range(self.layers):
            if layer:
                outputs = self.drop(outputs, deterministic=deterministic)
            start = None if states is None else states[layer]
            ahead, final = self.forward[layer](outputs, lengths, start)
            if self.bidirectional:
                back, final_back = self.backward[layer](outputs, lengths)
                ahead = jnp.concatenate([ahead, back], axis=-1)
                pairs = zip(final, final_back, strict=True)
                final = tuple(jnp.concatenate(pair, axis=-1) for pair in pairs)
            outputs = ahead
            finals.append(final)
        return outputs, tuple(finals)

    def step(
        self,
        inputs: Float[Array, "batch dim"],
        states: tuple[State, ...],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch width"], tuple[State, ...]]:
        """Runs one step of every sequence through a stack in one direction.

        Args:
            inputs: The step's inputs.
            states: State of each layer.
            deterministic: As in a call.

        Returns:
            The output of the last layer, and the new states.
        """
        new = []
        for layer, state in enumerate(states):
            if layer:
                inputs = self.drop(inputs, deterministic=deterministic)
            new.append(self.forward[layer].step(inputs, state))
            inputs = new[-1][0]
        return inputs, tuple(new)
