"""Runs: where a recipe is trained; start, resume, load, reproduce, plot."""

import dataclasses
import functools
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Key, PyTree

from jaxembed.atomic import write_atomically
from jaxembed.data import (
    HistorySet,
    ImageCaptions,
    ImageSet,
    PairSet,
    PieceCorpus,
    TextCorpus,
    TextPairs,
    Vocabulary,
)
from jaxembed.environment import describe_environment, trim_heap
from jaxembed.models import (
    AE,
    CBOW,
    VAE,
    Bert,
    DualEncoder,
    Seq2Seq,
    SkipGram,
    TransformerSeq2Seq,
    ViewEncoder,
)
from jaxembed.recipe import Recipe, flatten
from jaxembed.tasks import (
    autoencoder,
    bert,
    dual_encoder,
    recommender,
    seq2seq,
    view_encoder,
    word2vec,
)
from jaxembed.tasks.curves import read_metrics
from jaxembed.tasks.task import Metric, Prepared, Task
from jaxembed.train import (
    LogEntry,
    TrainState,
    abstract_like,
    latest_step,
    make_mesh,
    restore_params,
    save_params,
    train,
)
from jaxembed.vectors import KeyedVectors

# Read before the recipe is written, so a directory with it is a run that was cut off there. What a
# start finds in it is deleted: no name that somebody else might use.
CACHE = ".jaxembed-cache"
TASKS: dict[tuple[type, type], Task] = {
    (SkipGram, TextCorpus): word2vec,
    (CBOW, TextCorpus): word2vec,
    (AE, ImageSet): autoencoder,
    (VAE, ImageSet): autoencoder,
    (ViewEncoder, ImageSet): view_encoder,
    (VAE, HistorySet): recommender,
    (Seq2Seq, PairSet): seq2seq,
    (TransformerSeq2Seq, PairSet): seq2seq,
    (Bert, PieceCorpus): bert,
    (DualEncoder, ImageCaptions): dual_encoder,
    (DualEncoder, TextPairs): dual_encoder,
}
PathLike = str | os.PathLike[str]
LOSS_RISE = 0.05  # of the lowest epoch's
LOGGER = logging.getLogger("jaxembed")


class CorpusChangedError(ValueError):
    """The data that a run was trained on are not those at hand."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that has been trained, or is being trained.

    Attributes:
        path: The directory.
        recipe: What is trained.
        resolved: What the recipe left to the data: sizes, versions, fingerprint.
    """

    path: Path
    recipe: Recipe
    resolved: dict[str, Any]

    @property
    def task(self) -> Task:
        """The family of the recipe's model."""
        return find_task(self.recipe)

    @property
    def sized(self) -> Recipe:
        """The recipe with the sizes that the data decided, which tasks work with."""
        return self.recipe.with_sizes(self.resolved)

    @property
    def model(self) -> Any:
        """The module, with the sizes that the data decided."""
        return self.sized.model

    @functools.cached_property
    def params(self) -> PyTree:
        """The newest stored parameters."""
        abstract = self.task.abstract_params(self.sized, self.resolved)
        return restore_params(self.path, abstract_like(abstract))

    @functools.cached_property
    def vectors(self) -> KeyedVectors:
        """The embeddings."""
        return self.task.vectors(self.sized, self.params, self.path)

    def embed(self, source: PathLike, *, tower: str | None = None) -> np.ndarray:
        """Embeds the objects of a file or folder, of the kind that the run was trained on.

        Args:
            source: What the family reads: sentences, images, rows of a table.
            tower: "query" (the default) or "doc", of a dual encoder.

        Returns:
            Float32 vectors, [objects, dim], in the order of the objects.

        Raises:
            FileNotFoundError: If there is nothing at the path.
            ValueError: If the objects do not fit the run, its family embeds no new ones, or it has
                no towers.
        """
        embed = self._ability("embed", "embeds no new objects: its vectors are its own")
        if self.task is dual_encoder:
            return embed(self, source, tower)
        if tower is not None:
            raise ValueError(
                f"{self.path} is a run of {type(self.recipe.model).__name__}, which has one "
                "encoder: leave the tower out."
            )
        return embed(self, source)

    def sample(self, key: Key[Array, ""], count: int) -> np.ndarray:
        """Generates new objects.

        Args:
            key: Random key.
            count: How many.

        Returns:
            The objects, [count, ...].

        Raises:
            ValueError: If `count` is below 1, or the run has no model that generates.
        """
        if count < 1:
            raise ValueError(f"{count} samples: ask for 1 or more.")
        return self._ability("sample", "generates nothing")(self, key, count)

    def translate(
        self,
        lines: Iterable[str],
        *,
        beam_size: int = 5,
        n_best: int = 1,
        length_penalty: str | None = None,
    ) -> Iterator[tuple[list[seq2seq.Translation], list[str]]]:
        """Translates lines.

        Args:
            lines: Texts of the source language.
            beam_size: Of the search; 1 is greedy.
            n_best: Translations a line, at most `beam_size`.
            length_penalty: See `jaxembed.decoding.beam_search`; None for that of the recipe.

        Returns:
            An iterator in the order of the lines: of each its translations, the best first, with
            `text` and `score` (none for an empty line), and messages of what was wrong with it: it
            was empty, too long and so cut, or held tokens that the model does not know.

        Raises:
            ValueError: If `n_best` is out of range, or the run has no model that translates.
        """
        translate = self._ability("translate_lines", "translates nothing")
        options = {"beam_size": beam_size, "n_best": n_best, "length_penalty": length_penalty}
        return translate(self, lines, **options)

    def _ability(self, name: str, otherwise: str) -> Any:
        """A function of the task that not every family has."""
        if not hasattr(self.task, name):
            raise ValueError(
                f"{self.path} is a run of {type(self.recipe.model).__name__}, which {otherwise}."
            )
        return getattr(self.task, name)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The words and their counts."""
        return Vocabulary.load(self.path / "vocab.json")

    @property
    def results(self) -> dict[str, Metric]:
        """The final metrics as stored; empty before the run is finished."""
        path = self.path / "results.json"
        if not path.exists():
            return {}
        return {name: Metric(**metric) for name, metric in json.loads(path.read_text()).items()}


def find_task(recipe: Recipe) -> Task:
    """The family that trains a recipe."""
    return TASKS[type(recipe.model), type(recipe.data)]


def load_run(path: PathLike) -> Run:
    """Opens a run directory.

    Args:
        path: A directory that `train_recipe` wrote.

    Returns:
        The run; parameters and vectors are read when asked for.

    Raises:
        FileNotFoundError: If there is no run at the path.
        ValueError: If its recipe cannot be read.
    """
    path = Path(path)
    file = path / "recipe.json"
    if not file.is_file():
        raise FileNotFoundError(f"no run at {path}: a run directory has a file recipe.json.")
    try:
        content = json.loads(file.read_text())
        recipe, resolved = content["recipe"], content["resolved"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no recipe of a run ({error}); start a new run.") from error
    return Run(path, Recipe.from_json(recipe), resolved)


def train_recipe(
    recipe: Recipe,
    workdir: PathLike,
    *,
    texts: Iterable | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
) -> Run:
    """Trains a recipe in a directory, or goes on where an earlier call stopped.

    The later call may have another mesh, of as many processes.

    Args:
        recipe: What to train.
        workdir: The run directory; made if need be.
        texts: Sentences to train on in place of `recipe.data.source`, which then only names them:
            any iterable of token lists or strings. A resumed run must be given the same.
        checkpoint_every: Steps between checkpoints; None for none but the timed ones.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        The finished run, with `results.json` and figures written.

    Raises:
        ValueError: If the directory holds something else, or a run of another recipe (the message
            names the fields), or the data cannot be used.
        jaxembed.train.Interrupted: If a signal asked to stop; the same call resumes.
    """
    folder = Path(workdir)
    _check_workdir(folder, recipe)
    task = find_task(recipe)
    devices = recipe.mesh.data * recipe.mesh.model
    if devices > jax.device_count():
        raise ValueError(
            f"the mesh asks for {devices} devices, but there are {jax.device_count()}: lower "
            "mesh.data or mesh.model (on CPU, set jax_num_cpu_devices)."
        )
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.model, jax.devices()[:devices])
    cache = folder / CACHE
    is_new, is_finished = (
        not (folder / "recipe.json").exists(),
        (folder / "results.json").exists(),
    )
    _wait_for_all_processes("looked")  # before one of them changes what the others look at
    if is_finished and not is_new:
        return load_run(folder)
    if is_new and jax.process_index() == 0:
        shutil.rmtree(cache, ignore_errors=True)  # of a run that stopped while it read the data
    _wait_for_all_processes("cleared")
    prepared = task.prepare(recipe, cache, texts)
    run = _start(folder, recipe, prepared)
    training = task.training(run.sized, prepared, mesh)
    trim_heap()
    _forget_metrics_after(folder, latest_step(folder) or 0)
    train(
        training.step_fn,
        training.start(),
        training.batches,
        steps=training.steps,
        mesh=mesh,
        batch_axis=training.batch_axis,
        checkpoint_dir=folder,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        keep=2,
        log_every=training.log_every,
        on_log=functools.partial(_log, folder),
        description=folder.name,
        work_metric=training.work_metric,
        total_work=training.total_work,
    )
    trim_heap()
    # Read by all processes, as Orbax asks; one copy on one device, which `evaluate` donates: the
    # metrics must not depend on the mesh.
    params = [load_run(folder).params]
    if jax.process_index() == 0:
        _warn_of_rising_loss(folder, recipe.epochs)
        results = task.evaluate(run.sized, params.pop(), folder)
        _write_json(folder / "results.json", {n: dataclasses.asdict(m) for n, m in results.items()})
        shutil.rmtree(cache, ignore_errors=True)
        _try_to_plot(folder)
    return run


def reproduce(path: PathLike, *, retrain: bool = False) -> list[tuple[str, Metric, float, bool]]:
    """Recomputes a run's metrics from its stored parameters, or from scratch.

    Args:
        path: A finished run.
        retrain: Train the recipe anew and judge that.

    Returns:
        For each metric its name, what is stored, the new value, and whether they agree.

    Raises:
        CorpusChangedError: If `retrain` finds other data than the run was trained on.
        FileNotFoundError: If there is no run at the path.
        ValueError: If the run is not finished.
    """
    run = load_run(path)
    if not run.results:
        raise ValueError(f"{run.path} has no results.json: finish the run first.")
    if retrain:
        with tempfile.TemporaryDirectory() as folder:
            again = _retrain(run, Path(folder))
            computed = again.task.evaluate(run.sized, again.params, run.path)
    else:
        computed = run.task.evaluate(run.sized, run.params, run.path)
    if computed.keys() != run.results.keys():
        raise ValueError(
            f"{run.path}/results.json has {sorted(run.results)}, its recipe and files give "
            f"{sorted(computed)}: a file of the run is missing or was added."
        )
    return [
        (name, stored, computed[name].value, _agree(stored, computed[name]))
        for name, stored in run.results.items()
    ]


def plot_run(path: PathLike) -> list[Path]:
    """Draws the figures of a run into its `figures/`.

    Returns:
        The files written.

    Raises:
        ModuleNotFoundError: If matplotlib or scikit-learn is not installed.
    """
    from matplotlib.figure import Figure

    run = load_run(path)
    written = []
    for name, draw in run.task.figures(run.sized, run.params, run.path).items():
        figure = Figure(figsize=(8, 6), dpi=130, layout="constrained")
        draw(figure)
        file = run.path / "figures" / f"{name}.png"
        with write_atomically(file) as stream, warnings.catch_warnings():
            # Words are of any script, and one that cannot be drawn is a box.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(stream, format="png")
        written.append(file)
    return written


def ship_run(path: PathLike, target: PathLike) -> Path:
    """Copies a finished run without what is only needed to go on training.

    Args:
        path: A finished run.
        target: A directory that does not exist yet.

    Returns:
        The target.

    Raises:
        FileNotFoundError: If there is no run at the path.
        ValueError: If the run is not finished, or the target exists.
    """
    run, target = load_run(path), Path(target)
    if target.exists():
        raise ValueError(f"{target} exists: choose another directory.")
    if not run.results:
        raise ValueError(f"{run.path} has no results.json: finish the run first.")
    step = latest_step(run.path)
    shutil.copytree(run.path, target, ignore=shutil.ignore_patterns("steps", CACHE))
    save_params(target, step, run.params)
    for marker in target.rglob("commit_success.txt"):  # Orbax writes the folder's full name there
        marker.write_text("Checkpoint commit was successful.\n")
    return target


def _wait_for_all_processes(place: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jaxembed.run {place}")


def _agree(stored: Metric, new: Metric) -> bool:
    difference = abs(stored.value - new.value)
    return bool(np.isfinite(new.value) and difference <= stored.tolerance) and (
        stored.count == new.count
    )


def _retrain(run: Run, folder: Path) -> Run:
    """Trains the run's recipe anew on the same data, judged by the files that the run holds."""
    recipe = run.task.judged_by_stored_files(run.recipe, run.path)
    prepared = run.task.prepare(recipe, folder / CACHE, None)
    if prepared.resolved["fingerprint"] != run.resolved["fingerprint"]:
        then, now = flatten(run.resolved), flatten(prepared.resolved)
        changed = [
            f"{name.removeprefix('versions.')} {then.get(name, 'absent')} then, "
            f"{now.get(name, 'absent')} now"
            for name in sorted((then.keys() | now.keys()) - {"fingerprint"})
            if then.get(name) != now.get(name)
        ]
        raise CorpusChangedError(
            f"{run.recipe.data.source!r} is not what {run.path} was trained on ("
            f"{'; '.join(changed)}): a comparison would say nothing."
        )
    return train_recipe(recipe, folder / "run")


def _check_workdir(folder: Path, recipe: Recipe) -> None:
    """Raises unless the directory is new, or holds a run of the same recipe."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a directory for the run.")
    if (folder / "recipe.json").exists():
        run = load_run(folder)
        # A run goes on over other devices: they change its results by rounding only.
        if differing := run.recipe.differences(dataclasses.replace(recipe, mesh=run.recipe.mesh)):
            raise ValueError(
                f"{folder} holds a run of another recipe; it differs in (there, here) "
                + "; ".join(differing)
                + ". Choose another directory, or the same settings to resume."
            )
    elif folder.exists() and any(folder.iterdir()) and not (folder / CACHE).is_dir():
        raise ValueError(
            f"{folder} is not empty and holds no run: choose a new or an empty directory."
        )


def _start(folder: Path, recipe: Recipe, prepared: Prepared) -> Run:
    """Writes what a run needs before its first step, or compares it with what is there."""
    if (folder / "recipe.json").exists():
        run = load_run(folder)
        if run.resolved["fingerprint"] != prepared.resolved["fingerprint"]:
            shutil.rmtree(folder / CACHE, ignore_errors=True)  # or it would hide a restored text
            raise CorpusChangedError(
                f"{recipe.data.source!r} is not what the run in {folder} was started on: choose "
                "another directory, or restore the data."
            )
        if run.recipe.mesh != recipe.mesh:
            _describe(folder, recipe, run.resolved)
        return Run(folder, recipe, run.resolved)
    if jax.process_index() == 0:
        for name, content in prepared.files.items():
            with write_atomically(folder / name) as file:
                file.write(content)
    _describe(folder, recipe, prepared.resolved)
    return Run(folder, recipe, prepared.resolved)


def _describe(folder: Path, recipe: Recipe, resolved: dict[str, Any]) -> None:
    """Writes what is trained, and on what."""
    if jax.process_index() == 0:
        _write_json(folder / "env.json", describe_environment())
        # Last: a directory with a recipe is complete.
        _write_json(folder / "recipe.json", {"recipe": recipe.to_json(), "resolved": resolved})


def _write_json(path: Path, content: Any) -> None:
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def _log(folder: Path, entry: LogEntry, state: TrainState) -> None:
    """Appends one line a metric."""
    del state
    if jax.process_index():
        return
    with open(folder / "metrics.jsonl", "a") as file:
        for name, value in entry.values.items():
            line = {"step": entry.step, "split": "train", "name": name, "value": value}
            line |= {"work": entry.work, "seconds": round(entry.seconds, 4)}
            file.write(json.dumps(line) + "\n")


def _try_to_plot(folder: Path) -> None:
    if jax.process_count() > 1:
        LOGGER.info("No figures of a run on several hosts: draw them by `jaxembed plot`.")
        return
    try:
        plot_run(folder)
    except ModuleNotFoundError as error:
        LOGGER.warning("No figures (%s): pip install 'jaxembed[experiments]'.", error)


def _warn_of_rising_loss(folder: Path, epochs: int) -> None:
    """Says so where an epoch lost what one before it had: the run diverged without a NaN."""
    metrics = read_metrics(folder)
    losses = metrics["loss"]["value"] if "loss" in metrics else ()
    if len(losses) < epochs:  # an epoch is compared whole, as texts differ within one
        return
    means = [float(np.mean(part)) for part in np.array_split(losses, epochs)]
    if means[-1] > min(means) + LOSS_RISE * abs(min(means)):
        LOGGER.warning(
            "The loss of the last epoch is %.3f where an earlier one had %.3f: the result is "
            "likely ruined. Lower the learning rate (optim.lr), or make smaller updates.",
            means[-1],
            min(means),
        )


def _forget_metrics_after(folder: Path, step: int) -> None:
    """Drops lines that a resumed run will write again."""
    path = folder / "metrics.jsonl"
    if path.exists() and jax.process_index() == 0:
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        with write_atomically(path) as file:
            file.write("".join(kept).encode())
