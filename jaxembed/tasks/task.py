"""What `run.py` needs of a family of models; one file a family implements it."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxembed.train import StepFn, TrainState


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data that are ready to train on.

    Attributes:
        data: Whatever the family's `training` takes.
        resolved: What the recipe left to the data, as JSON values: sizes, versions, fingerprint.
        files: Text state and evaluation inputs to be stored in the run, by relative path.
    """

    data: Any
    resolved: dict[str, Any]
    files: dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Training:
    """What the loop runs; the attributes are arguments of `jaxembed.train.train`.

    `start` makes the state, which the loop then owns: a second reference would keep a copy of it.
    """

    step_fn: StepFn
    start: Callable[[], TrainState]
    batches: Iterable[PyTree]
    steps: int
    batch_axis: str | None
    work_metric: str | None
    total_work: float
    log_every: int


@dataclasses.dataclass(frozen=True)
class Metric:
    """A final result.

    Attributes:
        value: The figure.
        count: Number of items it was measured on.
        tolerance: Largest difference of a recomputed value that still counts as equal.
    """

    value: float
    count: int
    tolerance: float


@runtime_checkable
class Task(Protocol):
    """A family of models. `folder` is a run directory that holds the prepared files.

    After `prepare`, the model of `recipe` has the sizes that the data decided.

    A family may have more, see `Run`: `embed(run, source)` for new objects, and
    `sample(run, key, count)`.
    """

    def prepare(self, recipe: Any, cache: Path, texts: Iterable | None) -> Prepared:
        """Reads the data; large intermediate files go to `cache`, or are found there."""

    def training(self, recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
        """Makes the initial state, the step and the batches."""

    def abstract_params(self, recipe: Any, resolved: dict[str, Any]) -> PyTree:
        """Says shape and dtype of the stored parameters."""

    def judged_by_stored_files(self, recipe: Any, folder: Path) -> Any:
        """Returns the recipe with its evaluation files replaced by the run's copies."""

    def evaluate(self, recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
        """Computes the final metrics from the parameters, which it may donate, and the files."""

    def vectors(self, recipe: Any, params: PyTree, folder: Path) -> Any:
        """Returns the embeddings as `KeyedVectors`."""

    def figures(self, recipe: Any, params: PyTree, folder: Path) -> dict[str, Callable]:
        """Returns functions that draw on a matplotlib figure, by name."""
