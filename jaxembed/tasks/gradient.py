"""The training that all families share whose models are trained by gradients."""

from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxembed.data import RandomAccessSource, make_batches
from jaxembed.tasks.task import Training
from jaxembed.train import LossFn, gradient_step, init_state, make_optimizer
from jaxembed.train.state import InitFn


def run_keys(recipe: Any) -> Key[Array, "3"]:
    """The keys of initialisation, training and evaluation."""
    return jax.random.split(jax.random.key(recipe.seed), 3)


def check_batch(recipe: Any, processes: int) -> None:
    """Raises unless the batches divide over the mesh and the processes."""
    size, devices = recipe.optim.batch_size, recipe.mesh.data
    for count, what in ((devices, "devices of mesh.data"), (processes, "processes")):
        if size % count:
            raise ValueError(
                f"optim.batch_size {size} does not divide among {count} {what}: give a multiple."
            )


def gradient_training(
    recipe: Any,
    mesh: Mesh,
    source: RandomAccessSource,
    init_fn: InitFn,
    loss_fn: LossFn,
    *,
    axes: PyTree | None = None,
) -> Training:
    """Makes the training of a model by gradients of a loss.

    Args:
        recipe: A recipe whose `optim` is `jaxembed.train.Adam`.
        mesh: Mesh of `make_mesh`.
        source: Examples, which are shuffled in every epoch.
        init_fn: From a random key to the parameters.
        loss_fn: See `gradient_step`; batches have a `mask` besides the examples' fields.
        axes: Logical axes of each parameter, see `init_state`.

    Returns:
        The training.
    """
    init_key, train_key, _ = run_keys(recipe)
    size = recipe.optim.batch_size
    steps = recipe.epochs * -(-len(source) // size)
    optimizer = make_optimizer(recipe.optim, steps)
    batches = make_batches(
        source, batch_size=size, seed=recipe.seed, shuffle=True, epochs=recipe.epochs
    )
    return Training(
        step_fn=gradient_step(loss_fn, optimizer, key=train_key),
        start=lambda: init_state(init_fn, optimizer, mesh, key=init_key, axes=axes),
        batches=batches,
        steps=steps,
        batch_axis="batch",
        work_metric=None,
        total_work=float(steps),
        log_every=max(1, steps // 500),
    )
