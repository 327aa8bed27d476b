"""Checkpoints of a run: `DIRECTORY/steps/N/` with params, optimizer state and data position.

A checkpoint is written beside its place and renamed when complete, so what has a number for a
name is whole, whatever killed the process.
"""

import json
import os
import shutil
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jaxembed.train.state import TrainState


@runtime_checkable
class Resumable(Protocol):
    """A thing whose position can be stored, such as a grain iterator."""

    def get_state(self) -> Any:
        """Returns the position as what JSON can hold."""

    def set_state(self, state: Any) -> None:
        """Goes to a position that `get_state` returned."""


def save(
    directory: str | os.PathLike[str],
    step: int,
    state: TrainState,
    *,
    data: Resumable | None = None,
    log: Resumable | None = None,
    keep: int | None = None,
) -> None:
    """Saves a checkpoint, waits until it is complete, and then deletes old ones.

    Every process of a run must call it with the same step.

    Args:
        directory: The run directory; the checkpoint becomes `directory/steps/{step}`.
        step: Number of steps done.
        state: What to save; its step is not stored, the directory's name is.
        data: The data iterator; each process stores its own position.
        log: The sums of the metrics that are not logged yet.
        keep: Number of newest checkpoints to keep, at least 1; None keeps all.

    Raises:
        OSError: If it could not be written, for example to a full disk. The older checkpoints
            are untouched.
        ValueError: If `keep` is below 1 or the step is saved already.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep={keep}: at least the newest checkpoint must be kept.")
    trees = {"params": state.params, "opt_state": state.opt_state}
    positions = {"data": data, "log": log}
    parts = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    parts |= {name: _Position(part) for name, part in positions.items() if part is not None}
    _write(_steps(directory), step, parts)
    if keep is not None and jax.process_index() == 0:
        for old in _complete_steps(directory)[:-keep]:
            if old < step:
                _remove(_steps(directory) / str(old))


def save_params(directory: str | os.PathLike[str], step: int, params: PyTree) -> None:
    """Saves parameters only, as a shipped run keeps them.

    Args:
        directory: The run directory.
        step: Number of steps done.
        params: What to save.

    Raises:
        OSError: If it could not be written.
        ValueError: If the step is saved already.
    """
    _write(_steps(directory), step, {"params": params})


def latest_step(directory: str | os.PathLike[str]) -> int | None:
    """Finds the newest complete checkpoint.

    Args:
        directory: The run directory, which need not exist.

    Returns:
        Its step, or None if there is none.
    """
    return max(_complete_steps(directory), default=None)


def restore(
    directory: str | os.PathLike[str],
    abstract_state: TrainState,
    *,
    step: int | None = None,
    data: Resumable | None = None,
    log: Resumable | None = None,
) -> TrainState:
    """Restores a state, onto whatever mesh the abstract state lies on.

    Args:
        directory: The run directory.
        abstract_state: Arrays or `jax.ShapeDtypeStruct`s that say what is wanted and where; see
            `abstract_state` and `abstract_like`. Without a sharding: the default device.
        step: Which checkpoint; None takes the newest.
        data: The data iterator, which is set to the stored position.
        log: As `data`, for the sums of the metrics.

    Returns:
        The state.

    Raises:
        KeyError: If there is no such checkpoint or it lacks a part.
        ValueError: If stored and wanted arrays differ in name, shape or dtype.
    """
    step = _existing_step(directory, step)
    path = _steps(directory) / str(step)
    abstract = abstract_like(abstract_state)
    wanted = {"params": abstract.params, "opt_state": abstract.opt_state}
    parts = {name: tree for name, tree in wanted.items() if jax.tree.leaves(tree)}
    for name, tree in parts.items():
        _check_tree(path, name, tree)
    for name, part in {"data": data, "log": log}.items():
        if part is not None:
            _check_exists(path, name)
            parts[name] = _Position(part)
    loaded = ocp.load_checkpointables(path, parts)
    place = abstract.step.sharding
    return TrainState(
        step=jax.jit(lambda: jnp.asarray(step, abstract.step.dtype), out_shardings=place)(),
        params=loaded.get("params", abstract.params),
        opt_state=loaded.get("opt_state", abstract.opt_state),
    )


def restore_params(
    directory: str | os.PathLike[str], abstract_params: PyTree, *, step: int | None = None
) -> PyTree[jax.Array]:
    """Restores parameters only.

    Args:
        directory: The run directory.
        abstract_params: Arrays or `jax.ShapeDtypeStruct`s that say what is wanted and where.
        step: Which checkpoint; None takes the newest.

    Returns:
        The parameters.

    Raises:
        KeyError: If there is no such checkpoint.
        ValueError: If stored and wanted arrays differ in name, shape or dtype.
    """
    path = _steps(directory) / str(_existing_step(directory, step))
    abstract = abstract_like(abstract_params)
    _check_tree(path, "params", abstract)
    return ocp.load_checkpointables(path, {"params": abstract})["params"]


def abstract_like(tree: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """Says shape, dtype and sharding of every array of a tree.

    Args:
        tree: Arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        The tree with a `jax.ShapeDtypeStruct` in place of each; the default device where no
        sharding was given.
    """

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)


class _Position:
    """Stores a `Resumable` as JSON, one file a process, by Orbax's protocol for such things."""

    def __init__(self, resumable: Resumable):
        self.resumable = resumable

    def _file(self) -> str:
        return f"process_{jax.process_index()}-of-{jax.process_count()}.json"

    async def save(self, directory: Any) -> Awaitable[None]:
        text = json.dumps(self.resumable.get_state())

        async def write() -> None:
            ((await directory.await_creation()) / self._file()).write_text(text)

        return write()

    async def load(self, directory: Any) -> Awaitable[None]:
        async def read() -> None:
            path = directory / self._file()
            if not path.exists():
                found = sorted(other.name for other in directory.iterdir())
                raise ValueError(
                    f"{path} is missing, the checkpoint has {found}: the position in the data "
                    "can be restored only with the same number of processes."
                )
            self.resumable.set_state(json.loads(path.read_text()))

        return read()


def _steps(directory: str | os.PathLike[str]) -> Path:
    """Returns the folder that holds the checkpoints, absolute as Orbax wants it."""
    return Path(directory).absolute() / "steps"


def _complete_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Lists the steps of complete checkpoints in ascending order."""
    steps = _steps(directory)
    names = [path.name for path in steps.iterdir()] if steps.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _existing_step(directory: str | os.PathLike[str], step: int | None) -> int:
    """Returns the wanted step, or the newest for None."""
    found = _complete_steps(directory)
    if not found or (step is not None and step not in found):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise KeyError(
            f"No {wanted} in {_steps(directory)}, which has the steps {found}: check the "
            "directory, or train first."
        )
    return found[-1] if step is None else step


def _write(steps: Path, step: int, parts: dict[str, Any]) -> None:
    """Writes one checkpoint; on failure removes what was written and leaves the others."""
    if (steps / str(step)).exists():
        raise ValueError(f"{steps / str(step)} exists already: delete it, or use a new directory.")
    steps.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        _remove_unfinished(steps)
    try:
        ocp.save_checkpointables(steps / str(step), parts)
    # Orbax raises ValueError, OSError or an ExceptionGroup, depending on the thread that failed.
    except Exception as error:
        if jax.process_index() == 0:
            _remove_unfinished(steps)
        newest = max(_complete_steps(steps.parent), default=None)
        kept = "there is no older checkpoint" if newest is None else f"step {newest} is kept"
        raise OSError(
            f"The checkpoint of step {step} could not be written to {steps} "
            f"({shutil.disk_usage(steps).free / 2**20:.0f} MiB free): {error}. {kept}: make room "
            "or allow writing, and run the same command again."
        ) from error


def _remove_unfinished(steps: Path) -> None:
    """Removes what a killed process left: checkpoints half written or half deleted."""
    for path in steps.iterdir():
        if ".orbax-checkpoint-tmp" in path.name or path.name.endswith(".deleted"):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Deletes a checkpoint so that a kill never leaves half of one under its number."""
    doomed = path.with_name(f"{path.name}.deleted")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _check_exists(path: Path, name: str) -> None:
    """Raises if a checkpoint lacks a part."""
    if not (path / name).is_dir():
        found = sorted(part.name for part in path.iterdir() if part.is_dir())
        raise KeyError(
            f"{path} has no {name!r}, only {found}: it cannot be resumed from, but "
            "`restore_params` reads its parameters."
        )


def _check_tree(path: Path, name: str, wanted: PyTree) -> None:
    """Raises unless the stored tree has exactly the wanted names, shapes and dtypes."""
    _check_exists(path, name)
    found = _leaf_types(ocp.metadata(path, checkpointable_name=name).metadata)
    expected = _leaf_types(wanted)
    differing = [leaf for leaf in found | expected if found.get(leaf) != expected.get(leaf)]
    if differing:
        lines = [
            f"  {leaf}: {found.get(leaf, 'missing')} stored, {expected.get(leaf, 'nothing')} wanted"
            for leaf in differing[:8]
        ]
        raise ValueError(
            f"{path / name} differs from what is wanted in {len(differing)} of {len(expected)} "
            "arrays:\n" + "\n".join(lines) + "\nBuild the model and the optimizer with the "
            "configuration that the run was trained with, or start in a new directory."
        )


def _leaf_types(tree: PyTree) -> dict[str, str]:
    """Maps the name of each leaf to its dtype and shape; a random key counts as its data."""
    types = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        types[name] = f"{jnp.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
    return types
