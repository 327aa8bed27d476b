"""What a training run carries from step to step, created directly where it will live."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxembed.train.mesh import logical_sharding, tree_shardings

InitFn = Callable[[Key[Array, ""]], PyTree]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; arrays only.

    Attributes:
        step: int32 scalar, the number of steps done.
        params: Tree of arrays.
        opt_state: Tree of arrays; `()` for a step that keeps none.
    """

    # Any, because transformations also put shapes, shardings and placeholders here.
    step: Any
    params: Any
    opt_state: Any = ()


def make_state(params: PyTree, optimizer: optax.GradientTransformation | None = None) -> TrainState:
    """Makes the state of step 0 around existing parameters.

    Args:
        params: Tree of arrays, or an empty tree.
        optimizer: Makes the optimizer state; None leaves it empty.

    Returns:
        The state at step 0.
    """
    opt_state = () if optimizer is None else optimizer.init(params)
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state)
    # A step returns strong types: weak ones, as of `jnp.full`, would compile it a second time.
    state = jax.tree.map(jnp.asarray, state)
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


def abstract_state(
    init_fn: InitFn,
    optimizer: optax.GradientTransformation | None,
    mesh: Mesh,
    *,
    axes: PyTree | None = None,
) -> TrainState:
    """Says shape, dtype and sharding of every array of a state without creating any.

    Args:
        init_fn: From a random key to the parameters.
        optimizer: The optimizer, or None.
        mesh: Mesh of `make_mesh`.
        axes: The tree of parameters with a tuple of logical axes in place of each array; None
            puts a copy of all on every device.

    Returns:
        A state of `jax.ShapeDtypeStruct`s. An array of the optimizer state lies as the parameter
        whose path its own path ends with, if their shapes agree, and is copied otherwise.

    Raises:
        KeyError: If a logical name is unknown.
        ValueError: If `axes` does not fit the parameters.
    """
    state = jax.eval_shape(lambda key: make_state(init_fn(key), optimizer), jax.random.key(0))
    shardings = tree_shardings(mesh, state.params, axes)
    placed_params = jax.tree.map(_with_sharding, state.params, shardings)
    paths_and_params = jax.tree_util.tree_leaves_with_path(placed_params)
    copied = logical_sharding(mesh, ())

    def like_param(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        for param_path, param in paths_and_params:
            is_suffix = path[len(path) - len(param_path) :] == param_path
            if is_suffix and leaf.shape == param.shape:
                return _with_sharding(leaf, param.sharding)
        return _with_sharding(leaf, copied)

    return TrainState(
        step=_with_sharding(state.step, copied),
        params=placed_params,
        opt_state=jax.tree_util.tree_map_with_path(like_param, state.opt_state),
    )


def init_state(
    init_fn: InitFn,
    optimizer: optax.GradientTransformation | None,
    mesh: Mesh,
    *,
    key: Key[Array, ""],
    axes: PyTree | None = None,
) -> TrainState:
    """Creates the state of step 0 with each array already in its place.

    No device ever holds more than its share, and the values do not depend on the mesh.

    Args:
        init_fn: From a random key to the parameters.
        optimizer: The optimizer, or None.
        mesh: Mesh of `make_mesh`.
        key: Random key of the parameters.
        axes: Logical axes of each parameter, see `abstract_state`.

    Returns:
        The state at step 0.

    Raises:
        KeyError: If a logical name is unknown.
        ValueError: If `axes` does not fit the parameters.
    """
    abstract = abstract_state(init_fn, optimizer, mesh, axes=axes)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    # The key is a constant of the program: a process may hold only its own copy of it.
    return jax.jit(lambda: make_state(init_fn(key), optimizer), out_shardings=shardings)()


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    """Adds a sharding to a shape."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
