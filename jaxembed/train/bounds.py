"""Parameters that an update may not carry out of their range, such as the scale of logits."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def keep_within(
    optimizer: optax.GradientTransformation, bounds: Mapping[str, tuple[float, float]]
) -> optax.GradientTransformation:
    """Cuts updates so that named parameters stay within bounds.

    This clamps after the update. A clamp in the loss would have no gradient beyond the bound, and a
    parameter there could not come back.

    Args:
        optimizer: What computes the updates; it must be given the parameters.
        bounds: Least and greatest value by the last name of a parameter's path.

    Returns:
        The transformation, whose state is that of `optimizer`.

    Raises:
        ValueError: If a bound is the wrong way round; when it starts, if no parameter has a name.
    """
    for name, (low, high) in bounds.items():
        if not low <= high:
            raise ValueError(f"bounds of {name!r} are {low} and {high}: the first must be least.")

    def init(params: PyTree) -> PyTree:
        found = {_last_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
        if unknown := sorted(bounds.keys() - found):
            raise ValueError(f"no parameter is called {unknown[0]!r}: it cannot be held in bounds.")
        return optimizer.init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple:
        updates, state = optimizer.update(updates, state, params)

        def cut(path, change, param):
            if (name := _last_name(path)) not in bounds:
                return change
            return jnp.clip(param + change, *bounds[name]).astype(param.dtype) - param

        return jax.tree_util.tree_map_with_path(cut, updates, params), state

    return optax.GradientTransformation(init, update)


def _last_name(path: tuple) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)
