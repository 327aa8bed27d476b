"""A whole epoch over data held on the device as one compiled step of the loop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from jaxembed.train.mesh import logical_sharding
from jaxembed.train.state import TrainState
from jaxembed.train.step import Metrics, StepFn


class EpochNumbers:
    """Iterates over {"epoch": number}, the batches of `make_epoch_step`; it can be resumed.

    Pass it to `train` with `batch_axis=None`.

    Attributes:
        epochs: Epochs of the whole run; None never ends.
        next_epoch: Number of the next one, from 0.
    """

    def __init__(self, epochs: int | None = None):
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is {epochs}: give 1 or more, or None for no end.")
        self.epochs, self.next_epoch = epochs, 0

    def __iter__(self) -> "EpochNumbers":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self.epochs is not None and self.next_epoch >= self.epochs:
            raise StopIteration
        self.next_epoch += 1
        return {"epoch": np.array(self.next_epoch - 1, np.int32)}

    def get_state(self) -> dict[str, int]:
        """Returns the position."""
        return {"next_epoch": self.next_epoch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that `get_state` returned."""
        self.next_epoch = state["next_epoch"]


def make_epoch_step(
    step_fn: StepFn,
    data: PyTree,
    *,
    batch_size: int,
    key: Key[Array, ""],
    shuffle: bool = True,
    mesh: Mesh | None = None,
) -> jax.tree_util.Partial:
    """Makes a step of the loop out of all the steps of an epoch.

    The order of an epoch depends on the key and its number only, so a resumed run equals a straight
    one. `state.step` counts epochs; `step_fn` sees the number of batches done.

    Args:
        step_fn: Pure `(state, batch) -> (state, metrics)`, such as `gradient_step` makes.
        data: Dict of arrays with equal leading axes, the rows. They stay on the device, once for
            all epochs.
        batch_size: Rows a batch. The last one is filled up with rows of zeros.
        key: Of the orders.
        shuffle: Whether to shuffle, differently in each epoch.
        mesh: Spreads the rows of each batch; None computes where the state lies.

    Returns:
        A StepFn over batches of `EpochNumbers`, with `data` as its arrays. The metrics' totals and
        counts are summed over the epoch. Batches hold the arrays of `data` and `mask`, False for
        filled-up rows.

    Raises:
        ValueError: If `data` has no rows, rows of different number or a field `mask`, or
            `batch_size` is below 1 or does not divide over the mesh.
    """
    rows = _count_rows(data)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give 1 or more.")
    if mesh is not None and batch_size % mesh.shape["data"]:
        raise ValueError(
            f"a batch of {batch_size} rows does not divide over {mesh.shape['data']} devices: give "
            "a multiple."
        )
    spread = None if mesh is None else logical_sharding(mesh, ("batch",))
    count = -(-rows // batch_size)

    def epoch_step(data: PyTree, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        places = _batch_places(key, batch["epoch"], rows, batch_size, shuffle)

        def one(state: TrainState, places: Int[Array, "batch"]) -> tuple[TrainState, Any]:
            mask = places < rows
            rows_of = {
                name: _take(jnp.asarray(values), places, mask) for name, values in data.items()
            }
            filled = rows_of | {"mask": mask}
            if spread is not None:
                filled = jax.lax.with_sharding_constraint(filled, spread)
            return step_fn(state, filled)

        inner = dataclasses.replace(state, step=state.step * count)
        final, metrics = jax.lax.scan(one, inner, places)
        totals = jax.tree.map(lambda values: jnp.sum(jnp.asarray(values), axis=0), metrics)
        return dataclasses.replace(final, step=state.step + 1), totals

    return jax.tree_util.Partial(epoch_step, data)


def with_step(step_fn: StepFn) -> StepFn:
    """Lets a loss know the number of its step, for a schedule.

    Args:
        step_fn: A step over batches that are dicts.

    Returns:
        The same step, which adds `step`, int32, the number of steps done, to each batch.
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        return step_fn(state, {**batch, "step": state.step})

    return step


def _count_rows(data: PyTree) -> int:
    """The number of rows that all arrays have."""
    sizes = {name: np.shape(values)[:1] for name, values in data.items()}
    if not sizes or len(set(sizes.values())) > 1 or () in sizes.values() or "mask" in sizes:
        raise ValueError(
            f"data has the leading axes {sizes}: give arrays of equally many rows, none of them "
            "called `mask`."
        )
    (rows,) = next(iter(sizes.values()))
    if rows < 1:
        raise ValueError("data has no rows: give some.")
    return rows


def _batch_places(
    key: Array, epoch: Array, rows: int, batch_size: int, shuffle: bool
) -> Int[Array, "batches batch"]:
    """The row at each place of each batch; `rows` where there is none."""
    order = jnp.arange(rows, dtype=jnp.int32)
    if shuffle:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), order)
    count = -(-rows // batch_size)
    order = jnp.pad(order, (0, count * batch_size - rows), constant_values=rows)
    return order.reshape(count, batch_size)


def _take(values: Array, places: Array, mask: Array) -> Array:
    """Rows at places, zeros where the mask is False."""
    taken = jnp.take(values, places, axis=0, mode="clip")
    return jnp.where(mask.reshape(-1, *[1] * (taken.ndim - 1)), taken, jnp.zeros_like(taken))
