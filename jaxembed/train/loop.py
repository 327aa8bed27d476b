"""The one training loop, for every family of models."""

import collections
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

from jaxembed.train import checkpoint
from jaxembed.train.mesh import put_batch, put_tree
from jaxembed.train.progress import LOGGER, Progress
from jaxembed.train.signals import StopRequest
from jaxembed.train.state import TrainState
from jaxembed.train.step import StepFn

# Enough for the host to prepare a batch while the device works; more would only delay errors.
STEPS_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """Metrics of a stretch of steps.

    Attributes:
        first: Number of the first step covered, counting from 1.
        step: Number of the last step covered; also the steps done so far.
        values: Mean of each metric, its total over its count; left out where the count is 0.
        work: Sum of the work metric over these steps, or their number.
        seconds: Time these steps took, without checkpoints, callbacks and breaks.
    """

    first: int
    step: int
    values: dict[str, float]
    work: float
    seconds: float


class Interrupted(Exception):  # noqa: N818 (not an error: the run was asked to stop)
    """The run was asked to stop by a signal and did so between two steps.

    Attributes:
        step: Number of steps done.
        signal: Number of the signal.
        exit_code: What a program should exit with, 130 for Ctrl-C and 143 for kill.
    """

    def __init__(self, step: int, signal: int, is_saved: bool):
        kept = "saved; the same command resumes" if is_saved else "not saved: no checkpoint_dir"
        super().__init__(f"Stopped by signal {signal} after step {step}, {kept}.")
        self.step, self.signal, self.exit_code = step, signal, 128 + signal


class NonFiniteError(ValueError):
    """A metric or parameter is NaN or infinite.

    Attributes:
        step: Number of the step, counting from 1.
        batch: Index of its batch, counting from 0 at the start of the run.
        name: The metric, or "params".
    """

    def __init__(self, name: str, value: str, step: int):
        super().__init__(
            f"{name} is {value} at step {step} (batch {step - 1}, counting from 0): the run "
            "stopped, older checkpoints are kept. Look at that batch, or lower the learning rate."
        )
        self.name, self.step, self.batch = name, step, step - 1


def train(
    step_fn: StepFn,
    state: TrainState,
    batches: Iterable[PyTree],
    *,
    steps: int | None = None,
    mesh: Mesh | None = None,
    batch_axis: Literal["batch"] | None = "batch",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | int | None = 600.0,
    keep: int | None = 3,
    log_every: int = 100,
    on_log: Callable[[LogEntry, TrainState], None] | None = None,
    description: str = "train",
    work_metric: str | None = None,
    total_work: float | int | None = None,
) -> TrainState:
    """Runs steps until `steps` are done or the batches end.

    The device works on a step while the host prepares the next batch. Where `checkpoint_dir`
    holds a checkpoint, the run goes on from the newest one: state, position in the data and
    unlogged metrics, so that a run stopped anywhere ends in the same bits as a straight one.
    Metrics logged between that checkpoint and a crash are logged again, with equal values.

    Args:
        step_fn: Pure `(state, batch) -> (state, metrics)`; each metric a (total, count) pair of
            scalars. Compiled here, once a shape of batch. Large arrays that it reads belong into a
            `jax.tree_util.Partial`, so that they are not compiled in.
        state: The state to start from. It is donated: do not use it afterwards.
        batches: Trees of numpy arrays, the rows of this process, equally many batches in every
            process. With `checkpoint_dir`, `iter(batches)` must have `get_state` and `set_state`
            as the iterators of grain do.
        steps: Number of steps of the whole run, those before a resume included.
        mesh: Where to compute; the state is put there if it lies elsewhere. By default where the
            state lies. A mesh of one device is that device.
        batch_axis: "batch" spreads the rows of a batch over the mesh, None copies it everywhere.
        checkpoint_dir: The run directory, see `save`; None saves nothing.
        checkpoint_every: Number of steps between checkpoints.
        checkpoint_seconds: Seconds between checkpoints. The last state always is saved.
        keep: Number of newest checkpoints to keep; None keeps all.
        log_every: Number of steps between logs.
        on_log: Called with the metrics and the state each time; it must not keep the state,
            whose arrays the next step donates.
        description: What the progress bar calls the run.
        work_metric: Name of the metric whose total is the work done in a step, for example
            "words"; progress and rate are in its unit. By default steps.
        total_work: Work of the whole run in that unit, for the time left.

    Returns:
        The final state.

    Raises:
        Interrupted: If SIGINT or SIGTERM came: the current step was finished and saved. A second
            SIGINT raises KeyboardInterrupt at once.
        NonFiniteError: If a total or count of a metric, or a parameter at a checkpoint, is NaN
            or infinite.
        OSError: If a checkpoint could not be written.
        TypeError: If the position of `batches` cannot be saved.
        ValueError: If an option is out of range, the checkpoint does not fit the state, or the
            batches end before `steps`.
    """
    _check_options(steps, checkpoint_every, log_every)
    iterator = iter(batches)
    if checkpoint_dir is not None and not isinstance(iterator, checkpoint.Resumable):
        raise TypeError(
            f"Batches of type {type(iterator).__name__} lack get_state and set_state, so a run "
            "could not resume where it stopped: pass a grain dataset, or no checkpoint_dir."
        )
    if mesh is not None and _mesh_of(state) != mesh:
        state = put_tree(mesh, state)
    mesh = _mesh_of(state)
    if mesh is not None and mesh.size == 1:
        # Measured: XLA makes slower code for a mesh of one device than for the device.
        state, mesh = jax.device_put(state, mesh.devices.item()), None
    sums = _Sums(work_metric)
    saved_step = None
    if checkpoint_dir is not None:
        state, saved_step = _resume(checkpoint_dir, state, iterator, sums)
    step = int(jax.device_get(state.step))
    sums.start(step)

    total = total_work if work_metric is not None else steps
    done = sums.all_work if work_metric is not None else step
    progress = Progress(description, work_metric or "steps", done, total)
    # Committed to its place, as the results of a step are: otherwise step 2 compiles again.
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    leaves, structure = jax.tree.flatten(state)
    # The arrays of a `Partial` are arguments of the compiled step, not constants inside it.
    if not isinstance(step_fn, jax.tree_util.Partial):
        step_fn = jax.tree_util.Partial(step_fn)
    constants, step_structure = jax.tree.flatten(step_fn)
    constants = put_tree(mesh, constants) if mesh is not None else jax.device_put(constants)
    shardings = tuple(leaf.sharding for leaf in leaves)
    compiled_step = _compile_step(step_structure, structure, shardings, mesh)
    pending: collections.deque[jax.Array] = collections.deque()
    saved_at = time.monotonic()

    def retire(in_flight: int) -> None:
        while len(pending) > in_flight:
            number = step - len(pending) + 1
            values = np.asarray(pending.popleft(), np.float64)
            progress.update(sums.add(number, compiled_step.names, values))

    def log() -> None:
        entry = sums.take_entry()
        progress.show(entry.values)
        if on_log is not None:
            on_log(entry, state)
        sums.restart_clock()

    def save() -> None:
        nonlocal saved_step, saved_at
        retire(0)
        if checkpoint_dir is not None and saved_step != step:
            sums.stop_clock()
            if not bool(_is_finite(state.params)):
                raise NonFiniteError("params", "not finite", step)
            checkpoint.save(checkpoint_dir, step, state, data=iterator, log=sums, keep=keep)
            saved_step = step
            sums.restart_clock()
        saved_at = time.monotonic()

    with StopRequest() as stop:
        try:
            while steps is None or step < steps:
                batch = next(iterator, _END)
                if batch is _END:
                    break
                state, packed = compiled_step(constants, state, put_batch(mesh, batch, batch_axis))
                step += 1
                pending.append(packed)
                retire(STEPS_IN_FLIGHT)
                is_log_step = step % log_every == 0
                if is_log_step:
                    retire(0)
                    log()
                overdue = (
                    checkpoint_seconds is not None
                    and time.monotonic() - saved_at > checkpoint_seconds
                )
                stop_signal, overdue = _agree(stop.signal, overdue, is_log_step)
                if stop_signal:
                    save()
                    raise Interrupted(step, stop_signal, checkpoint_dir is not None)
                if overdue or (checkpoint_every is not None and step % checkpoint_every == 0):
                    save()
            retire(0)
            if sums.count_steps:
                log()
            save()
        finally:
            progress.close()
    if steps is not None and step < steps:
        raise ValueError(
            f"The batches ended after step {step} of {steps}: repeat the data or ask for fewer "
            "steps."
        )
    return state


class _CompiledStep:
    """The step compiled with the state donated and all metrics packed into one array."""

    def __init__(self, step_structure: Any, shardings: TrainState, mesh: Mesh | None):
        self.names: tuple[str, ...] = ()

        def packed_step(
            constants: list[jax.Array], state: TrainState, batch: PyTree
        ) -> tuple[TrainState, jax.Array]:
            state, metrics = jax.tree.unflatten(step_structure, constants)(state, batch)
            self.names = tuple(metrics)
            pairs = [jnp.asarray(value, jnp.float32) for pair in metrics.values() for value in pair]
            return state, jnp.stack(pairs).reshape(-1, 2) if pairs else jnp.zeros((0, 2))

        # The state keeps its place: otherwise XLA may move it and the next step compiles again.
        copied = shardings.step if mesh is None else NamedSharding(mesh, PartitionSpec())
        self.step = jax.jit(packed_step, donate_argnums=1, out_shardings=(shardings, copied))
        self.mesh = mesh

    def __call__(
        self, constants: list[jax.Array], state: TrainState, batch: PyTree
    ) -> tuple[TrainState, jax.Array]:
        """Starts one step without waiting for it; the copy of its metrics to the host as well."""
        with jax.transfer_guard("disallow"):
            if self.mesh is None:
                state, packed = self.step(constants, state, batch)
            else:
                with jax.set_mesh(self.mesh):
                    state, packed = self.step(constants, state, batch)
        packed.copy_to_host_async()
        return state, packed


@functools.lru_cache(maxsize=8)
def _compile_step(
    step_structure: Any, structure: Any, shardings: tuple[Sharding, ...], mesh: Mesh | None
) -> _CompiledStep:
    """Makes a compiled step, or takes that of an earlier call of `train`."""
    return _CompiledStep(step_structure, jax.tree.unflatten(structure, shardings), mesh)


class _Sums:
    """Metrics summed in float64 on the host since the last log; `Resumable`."""

    _NUMBERS = ("count_steps", "work", "all_work", "seconds")

    def __init__(self, work_metric: str | None):
        self.work_metric = work_metric
        self.totals: dict[str, np.ndarray] = {}
        self.first, self.count_steps, self.work, self.all_work, self.seconds = 1, 0, 0.0, 0.0, 0.0

    def start(self, step: int) -> None:
        """Starts the clock at a step."""
        self.first = step - self.count_steps + 1
        self.restart_clock()

    def add(self, step: int, names: tuple[str, ...], values: np.ndarray) -> float:
        """Adds the (total, count) pairs of one step and returns its work."""
        if not math.isfinite(values.sum()):  # cheaper than `isfinite(values).all()`
            index = int(np.argmin(np.isfinite(values).all(axis=1)))
            total, count = values[index]
            raise NonFiniteError(names[index], f"{total} over {count}", step)
        for name, pair in zip(names, values, strict=True):
            self.totals[name] = self.totals.get(name, 0.0) + pair
        work = 1.0
        if self.work_metric is not None:
            if self.work_metric not in names:
                raise ValueError(
                    f"work_metric={self.work_metric!r}, but the step has the metrics {names}."
                )
            work = float(values[names.index(self.work_metric), 0])
        self.work += work
        self.all_work += work
        self.count_steps += 1
        return work

    def take_entry(self) -> LogEntry:
        """Returns the entry of the steps since the last one and starts anew."""
        self.stop_clock()
        step = self.first + self.count_steps - 1
        pairs = {name: pair.tolist() for name, pair in self.totals.items()}
        values = {name: total / count for name, (total, count) in pairs.items() if count}
        entry = LogEntry(self.first, step, values, self.work, self.seconds)
        self.totals, self.first, self.count_steps = {}, step + 1, 0
        self.work, self.seconds = 0.0, 0.0
        return entry

    def stop_clock(self) -> None:
        """Adds the time since the clock was started."""
        self.seconds += time.monotonic() - self.started

    def restart_clock(self) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` takes; JSON keeps every bit of a float."""
        totals = {name: pair.tolist() for name, pair in self.totals.items()}
        return {"totals": totals} | {name: getattr(self, name) for name in self._NUMBERS}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from stored sums."""
        self.totals = {name: np.array(pair) for name, pair in state["totals"].items()}
        for name in self._NUMBERS:
            setattr(self, name, state[name])


_END = object()


def _check_options(steps: int | None, checkpoint_every: int | None, log_every: int) -> None:
    """Raises if a number of steps makes no sense."""
    if steps is not None and steps < 0:
        raise ValueError(f"steps={steps}: give the number of steps of the whole run, or None.")
    for name, value in {"checkpoint_every": checkpoint_every, "log_every": log_every}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give a positive number of steps.")


def _mesh_of(state: TrainState) -> Mesh | None:
    """Returns the mesh that a state lies on, or None on a single device."""
    sharding = getattr(state.step, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _resume(
    directory: str | os.PathLike[str],
    state: TrainState,
    iterator: Iterator[PyTree],
    sums: _Sums,
) -> tuple[TrainState, int | None]:
    """Restores the newest checkpoint, if there is one, and returns its step as well."""
    newest = checkpoint.latest_step(directory)
    if newest is None:
        return state, None
    given = int(jax.device_get(state.step))
    if given > newest:
        raise ValueError(
            f"The state is at step {given} but the newest checkpoint in {directory} at {newest}: "
            "they belong to different runs, so choose another directory."
        )
    state = checkpoint.restore(directory, state, step=newest, data=iterator, log=sums)
    LOGGER.info(f"Resumed from step {newest} in {directory}.")
    return state, newest


@jax.jit
def _is_finite(params: PyTree) -> jax.Array:
    """Says whether all parameters are finite."""
    floating = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in floating] + [jnp.bool_(True)]))


def _agree(stop_signal: int, overdue: bool, is_log_step: bool) -> tuple[int, bool]:
    """Makes all processes stop or save at the same step: at a log step, if any of them wants to."""
    if jax.process_count() == 1:
        return stop_signal, overdue
    if not is_log_step:
        return 0, False
    wishes = multihost_utils.process_allgather(np.array([stop_signal, overdue], np.int32))
    stop_signal, overdue = wishes.max(axis=0)
    return int(stop_signal), bool(overdue)
