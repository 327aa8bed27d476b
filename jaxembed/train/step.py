"""One gradient step, made from a loss and an optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxembed.train.state import TrainState

Metrics = Mapping[str, tuple[Any, Any]]
LossFn = Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Any, Metrics]]
StepFn = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def gradient_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, key: Key[Array, ""]
) -> StepFn:
    """Makes a pure training step.

    Gradients are accumulated over several batches by an optimizer that does so
    (`optax.MultiSteps(...).gradient_transformation()`); precision follows from dtypes: cast the
    parameters inside `loss_fn` to compute in a shorter one.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)`, pure; loss a scalar, metrics a dict of
            (total, count) pairs of scalars. The key differs from step to step.
        optimizer: The optimizer whose state lies in the `TrainState`.
        key: Random key of the run; each step folds in its number, so a resumed run draws what a
            straight run draws.

    Returns:
        `(state, batch) -> (state, metrics)`. The metrics are those of `loss_fn` at the old
        parameters, `loss` if it gives none of that name, and `gradient_norm`, which shows a
        gradient that is not finite in the very step where it arises.
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, batch, step_key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        one = jnp.ones(())
        metrics = {"loss": (loss, one)} | dict(metrics)
        metrics["gradient_norm"] = (optax.tree.norm(gradients), one)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step
