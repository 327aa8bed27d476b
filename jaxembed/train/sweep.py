"""Many runs of one small model at once: a step mapped over models by `vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Key, PyTree

from jaxembed.train.mesh import logical_sharding
from jaxembed.train.state import TrainState
from jaxembed.train.step import Metrics, StepFn


def make_sweep_state(
    make_state_fn: Callable[[Key[Array, ""]], TrainState],
    keys: Key[Array, "models"],
    *,
    mesh: Mesh | None = None,
) -> TrainState:
    """Makes the states of several models, stacked.

    Args:
        make_state_fn: From a random key to a model's state at step 0.
        keys: A key for each model.
        mesh: Spreads the models, see `make_sweep_step`.

    Returns:
        A state whose arrays have a leading axis of models; its step is one number for all.

    Raises:
        ValueError: If the models do not divide over the mesh.
    """
    state = jax.vmap(make_state_fn, out_axes=_AXES)(keys)
    if mesh is None:
        return state
    _check_divides(keys.shape[0], mesh)
    spread = logical_sharding(mesh, ("batch",))
    return TrainState(
        step=jax.device_put(state.step, logical_sharding(mesh, ())),
        params=jax.device_put(state.params, spread),
        opt_state=jax.device_put(state.opt_state, spread),
    )


def make_sweep_step(
    make_step: Callable[..., StepFn],
    settings: PyTree,
    *shared: PyTree,
    mesh: Mesh | None = None,
) -> jax.tree_util.Partial:
    """Makes the step that trains several models on the same batches.

    Each model ends as if trained alone with its setting, apart from rounding.

    Args:
        make_step: From one model's setting, traced, to its step: for example from a random key and
            a beta to a `gradient_step`. What decides shapes or code cannot be a setting.
        settings: Tree of arrays with a leading axis of models.
        *shared: Arrays that all models read, such as an epoch's data; further arguments of
            `make_step`, which otherwise would be compiled in.
        mesh: Spreads the models over its axis `data`; each device trains its own and waits for no
            other. One core runs the small products of a step, so with as many CPU devices as cores
            (`jax_num_cpu_devices`) a sweep uses them all. None computes where the state lies.

    Returns:
        A StepFn over the states of `make_sweep_state`. The metric `name` of model 3 is `name/3`.

    Raises:
        ValueError: If the settings differ in their number of models, there are none, or they do
            not divide over the mesh.
    """
    models = _count_models(settings)
    if mesh is not None:
        _check_divides(models, mesh)

    def step_of_all(
        settings: PyTree, shared: PyTree, state: TrainState, batch: PyTree
    ) -> tuple[TrainState, Any]:
        def one(setting: PyTree, state: TrainState) -> tuple[TrainState, Any]:
            state, metrics = make_step(setting, *shared)(state, batch)
            return state, jax.tree.map(jnp.asarray, dict(metrics))

        mapped = jax.vmap(one, in_axes=(0, _AXES), out_axes=(_AXES, 0))
        state, metrics = mapped(settings, state)
        if mesh is not None:
            metrics = _gather(metrics)
        return state, metrics

    if mesh is not None:
        spread, copied = PartitionSpec("data"), PartitionSpec()
        axes = TrainState(step=copied, params=spread, opt_state=spread)
        step_of_all = jax.shard_map(
            step_of_all,
            mesh=mesh,
            in_specs=(spread, copied, axes, copied),
            out_specs=(axes, copied),
            check_vma=False,
        )

    def sweep_step(
        settings: PyTree, shared: PyTree, state: TrainState, batch: PyTree
    ) -> tuple[TrainState, Metrics]:
        state, metrics = step_of_all(settings, shared, state, batch)
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


def _gather(metrics: PyTree) -> PyTree:
    """The metrics of all models from those of a device's own, in one exchange."""
    leaves, structure = jax.tree.flatten(metrics)
    own = jnp.stack([leaf.astype(jnp.float32) for leaf in leaves])
    everyones = jax.lax.all_gather(own, "data", axis=1, tiled=True)
    return jax.tree.unflatten(structure, list(everyones))


def _check_divides(models: int, mesh: Mesh) -> None:
    """Complains about models that some devices would have more of than others."""
    if models % mesh.shape["data"]:
        raise ValueError(
            f"a sweep of {models} models does not divide over {mesh.shape['data']} devices: give "
            "a multiple."
        )


def _count_models(settings: PyTree) -> int:
    """The leading axis that all settings share."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(settings)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(
            f"settings have the shapes {shapes}: give each a leading axis of one size, the models."
        )
    return shapes[0][0]
