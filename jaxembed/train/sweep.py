"""Many runs of one small model at once: a step mapped over models by `vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from jaxembed.train.state import TrainState
from jaxembed.train.step import Metrics, StepFn


def make_sweep_state(
    make_state_fn: Callable[[Key[Array, ""]], TrainState], keys: Key[Array, "models"]
) -> TrainState:
    """Makes the states of several models, stacked.

    Args:
        make_state_fn: From a random key to a model's state at step 0.
        keys: A key for each model.

    Returns:
        A state whose arrays have a leading axis of models; its step is one number for all.
    """
    return jax.vmap(make_state_fn, out_axes=_AXES)(keys)


def make_sweep_step(
    make_step: Callable[..., StepFn], settings: PyTree, *shared: PyTree
) -> jax.tree_util.Partial:
    """Makes the step that trains several models on the same batches.

    Each model ends as if trained alone with its setting, apart from rounding.

    Args:
        make_step: From one model's setting, traced, to its step: for example from a random key and
            a beta to a `gradient_step`. What decides shapes or code cannot be a setting.
        settings: Tree of arrays with a leading axis of models.
        *shared: Arrays that all models read, such as an epoch's data; further arguments of
            `make_step`, which otherwise would be compiled in.

    Returns:
        A StepFn over the states of `make_sweep_state`. The metric `name` of model 3 is `name/3`.

    Raises:
        ValueError: If the settings differ in their number of models or there are none.
    """
    models = _count_models(settings)

    def sweep_step(
        settings: PyTree, shared: PyTree, state: TrainState, batch: PyTree
    ) -> tuple[TrainState, Metrics]:
        def one(setting: PyTree, state: TrainState) -> tuple[TrainState, Any]:
            state, metrics = make_step(setting, *shared)(state, batch)
            return state, jax.tree.map(jnp.asarray, dict(metrics))

        mapped = jax.vmap(one, in_axes=(0, _AXES), out_axes=(_AXES, 0), axis_size=models)
        state, metrics = mapped(settings, state)
        split = {
            f"{name}/{model}": (total[model], count[model])
            for name, (total, count) in metrics.items()
            for model in range(models)
        }
        return state, split

    return jax.tree_util.Partial(sweep_step, settings, shared)


def select_model(state: TrainState, model: int) -> TrainState:
    """Takes one model's state out of a sweep's.

    Args:
        state: Of `make_sweep_state`.
        model: Its number, from 0.

    Returns:
        The state of that model alone.

    Raises:
        ValueError: If there is no such model.
    """
    models = jax.tree.leaves(state.params)[0].shape[0]
    if not 0 <= model < models:
        raise ValueError(f"model {model} of a sweep of {models}: give a number from 0.")

    def take(leaf: Array) -> Array:
        return leaf[model]

    return TrainState(
        step=state.step,
        params=jax.tree.map(take, state.params),
        opt_state=jax.tree.map(take, state.opt_state),
    )


# All models are at the same step, which the loop reads as one number.
_AXES = TrainState(step=None, params=0, opt_state=0)


def _count_models(settings: PyTree) -> int:
    """The leading axis that all settings share."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(settings)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(
            f"settings have the shapes {shapes}: give each a leading axis of one size, the models."
        )
    return shapes[0][0]
