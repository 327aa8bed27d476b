"""The training that all families share whose models are trained by gradients."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxembed.data import RandomAccessSource, make_batches
from jaxembed.tasks.task import Training
from jaxembed.train import (
    EpochNumbers,
    LossFn,
    gradient_step,
    init_state,
    keep_within,
    make_epoch_step,
    make_optimizer,
    with_step,
)
from jaxembed.train.state import InitFn


def run_keys(recipe: Any) -> Key[Array, "3"]:
    """The keys of initialisation, training and evaluation."""
    return jax.random.split(jax.random.key(recipe.seed), 3)


def count_steps(recipe: Any, examples: int) -> int:
    """Batches of the whole run."""
    return recipe.epochs * -(-examples // recipe.optim.batch_size)


def check_batch(recipe: Any) -> None:
    """Raises unless the batches divide over the mesh and the processes."""
    size = recipe.optim.batch_size
    for count, what in (
        (recipe.mesh.data, "devices of mesh.data"),
        (jax.process_count(), "processes"),
    ):
        if size % count:
            raise ValueError(
                f"optim.batch_size {size} does not divide among {count} {what}: give a multiple."
            )


def train_streamed(
    recipe: Any,
    mesh: Mesh,
    source: RandomAccessSource,
    init_fn: InitFn,
    loss_fn: LossFn,
    *,
    whole_batches: bool = False,
    is_whole_run: bool = False,
    axes: PyTree | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Training:
    """Makes the training on examples that the host reads batch by batch.

    Args:
        recipe: A recipe whose `optim` is `jaxembed.train.Adam`.
        mesh: Mesh of `make_mesh`.
        source: Examples, which are shuffled in every epoch.
        init_fn: From a random key to the parameters.
        loss_fn: See `gradient_step`; batches have `step` besides the examples' fields, and `mask`
            if they are made here.
        whole_batches: The elements of `source` are batches already, of this process's rows.
        is_whole_run: The source holds the examples of all epochs, and in their order.
        axes: Logical axes of each parameter, see `abstract_state`.
        bounds: Least and greatest value of parameters, see `keep_within`.

    Returns:
        The training; a step is a batch.
    """
    init_key, train_key, _ = run_keys(recipe)
    epochs = 1 if is_whole_run else recipe.epochs
    size = 1 if whole_batches else recipe.optim.batch_size
    steps = epochs * -(-len(source) // size)
    # Each process reads its rows of every whole batch, so all read the same ones.
    alone = {"process_index": 0, "process_count": 1} if whole_batches else {}
    optimizer = make_optimizer(recipe.optim, steps)
    if bounds:
        optimizer = keep_within(optimizer, bounds)
    return Training(
        step_fn=with_step(gradient_step(loss_fn, optimizer, key=train_key)),
        start=lambda: init_state(init_fn, optimizer, mesh, key=init_key, axes=axes),
        batches=make_batches(
            source,
            batch_size=None if whole_batches else recipe.optim.batch_size,
            seed=recipe.seed,
            shuffle=not is_whole_run,
            epochs=epochs,
            **alone,
        ),
        steps=steps,
        batch_axis="batch",
        work_metric=None,
        total_work=float(steps),
        log_every=max(1, steps // 500),
    )


def train_on_device(
    recipe: Any, mesh: Mesh, data: dict[str, np.ndarray], init_fn: InitFn, loss_fn: LossFn
) -> Training:
    """Makes the training on data that the device holds: an epoch is one call of a program.

    Args:
        recipe: A recipe whose `optim` is `jaxembed.train.Adam`.
        mesh: Mesh of `make_mesh`; each of its devices holds all data.
        data: Arrays with a leading axis of examples.
        init_fn: From a random key to the parameters.
        loss_fn: As for `train_streamed`.

    Returns:
        The training; a step is an epoch.
    """
    init_key, train_key, _ = run_keys(recipe)
    examples = len(next(iter(data.values())))
    optimizer = make_optimizer(recipe.optim, count_steps(recipe, examples))
    step_key, order_key = jax.random.split(train_key)
    step = make_epoch_step(
        with_step(gradient_step(loss_fn, optimizer, key=step_key)),
        data,
        batch_size=recipe.optim.batch_size,
        key=order_key,
        mesh=mesh if mesh.size > 1 else None,
    )
    return Training(
        step_fn=step,
        start=lambda: init_state(init_fn, optimizer, mesh, key=init_key),
        batches=EpochNumbers(recipe.epochs),
        steps=recipe.epochs,
        batch_axis=None,
        work_metric=None,
        total_work=float(recipe.epochs),
        log_every=max(1, recipe.epochs // 500),
    )
