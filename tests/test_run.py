import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import topics
import two_hosts
from killed_word2vec import KILLED_AT
from matplotlib.figure import Figure

from jaxembed import atomic, environment
from jaxembed import run as run_module
from jaxembed.cli import main, run_guarded
from jaxembed.data import EMBEDDED, EmbeddedSet, TextCorpus
from jaxembed.models import CBOW, SkipGram
from jaxembed.models.word2vec import RowSGD
from jaxembed.recipe import MeshShape, WordEvaluation
from jaxembed.run import (
    CACHE,
    CorpusChangedError,
    load_run,
    plot_run,
    reproduce,
    ship_run,
    train_recipe,
)
from jaxembed.tasks import word2vec, word2vec_figures
from jaxembed.train import (
    Interrupted,
    checkpoint,
    latest_step,
    make_mesh,
    save_params,
)
from jaxembed.vectors import KeyedVectors


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word2vec, "BLOCK", topics.BLOCK)
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Half a second less for every run; that of `finished` has figures."""
    monkeypatch.setattr(run_module, "plot_run", lambda folder: [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return topics.finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return topics.write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished.path, tmp_path / "copied")
    return tmp_path / "copied"


def files_in(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def metrics(folder):
    """All logged lines without their times."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in line if name != "seconds"} for line in lines]


def assert_same_run(run, other):
    """Vectors of equal bits, equal logs and equal results."""
    assert run.vectors.keys == other.vectors.keys
    np.testing.assert_array_equal(run.vectors.matrix, other.vectors.matrix)
    assert metrics(run.path) == metrics(other.path)
    assert run.results["loss"] == other.results["loss"]


def test_directory_holds_what_the_design_lists(finished):
    assert {name for name in files_in(finished.path) if not name.startswith("steps/")} == {
        "recipe.json",
        "vocab.json",
        "env.json",
        "metrics.jsonl",
        "results.json",
        "eval/ids.txt",
        "eval/analogies.txt",
        "eval/pairs/human.txt",
        "figures/loss.png",
        "figures/map.png",
        "figures/analogies.png",
    }
    assert {entry.name for entry in finished.path.iterdir() if entry.is_dir()} == {
        "eval",
        "figures",
        "steps",
    }
    assert [step.name for step in (finished.path / "steps").iterdir()] == [str(topics.STEPS)]
    stored = json.loads((finished.path / "recipe.json").read_text())
    assert stored["recipe"] == finished.recipe.to_json()
    assert stored["resolved"].keys() >= {"vocab_size", "words", "sentences", "fingerprint"}
    assert finished.recipe.model.vocab_size == 0
    assert finished.model.vocab_size == stored["resolved"]["vocab_size"]
    environment = json.loads((finished.path / "env.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["devices"] == 8 and environment["device"]
    for line in map(json.loads, (finished.path / "metrics.jsonl").read_text().splitlines()):
        assert line.keys() == {"step", "split", "name", "value", "work", "seconds"}


def test_loaded_run_equals_the_returned_one(finished):
    loaded = load_run(finished.path)
    assert loaded.recipe == finished.recipe
    assert loaded.resolved == finished.resolved
    assert loaded.results == finished.results
    assert loaded.vocabulary.words == finished.vectors.keys
    np.testing.assert_array_equal(loaded.vectors.matrix, finished.vectors.matrix)
    np.testing.assert_array_equal(loaded.vectors.counts, loaded.vocabulary.counts)


def test_neighbours_of_a_word_are_those_of_its_topic(finished):
    for topic in topics.TOPICS:
        for word in topic:
            near = {key for key, _ in finished.vectors.nearest(word, 5)}
            assert near == set(topic) - {word}
    assert finished.results["pairs/human"].value > 0.8  # above it stands the order by topics
    assert finished.results["analogies"].count == 3
    assert finished.results["analogies/syntactic"].count == 1


def test_two_runs_give_the_same_bits(finished, tmp_path):
    again = train_recipe(finished.recipe, tmp_path / "again", checkpoint_every=5)
    assert_same_run(again, finished)
    assert again.results == finished.results
    assert {path.name for path in (again.path / "steps").iterdir()} == {"15", "16"}


def test_run_killed_in_an_epoch_resumes_to_the_same_bits(finished, text, tmp_path):
    script = Path(__file__).with_name("killed_word2vec.py")
    environment = {**os.environ, "PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, script, text, tmp_path / "run"]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert latest_step(tmp_path / "run") == KILLED_AT - 1
    assert metrics(tmp_path / "run")[-1]["step"] == KILLED_AT  # to be written again
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 7, "spl')  # a line that the kill cut
    resumed = train_recipe(topics.make_recipe(text), tmp_path / "run")
    assert_same_run(resumed, finished)
    assert not (resumed.path / CACHE).exists()


def test_interrupted_run_exits_with_130_and_resumes(finished, text, tmp_path, stop_at, capsys):
    recipe = topics.make_recipe(text)
    stop_at(3)
    assert run_guarded(lambda: train_recipe(recipe, tmp_path / "run"), "train") == 130
    assert "after step 3, saved; the same command resumes" in capsys.readouterr().err
    stop_at(10)
    with pytest.raises(Interrupted):
        train_recipe(recipe, tmp_path / "run")
    assert load_run(tmp_path / "run").results == {}
    with pytest.raises(ValueError, match=r"no results\.json: finish the run"):
        reproduce(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no results\.json: finish the run"):
        ship_run(tmp_path / "run", tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
    stop_at(None)
    assert_same_run(train_recipe(recipe, tmp_path / "run"), finished)


def test_run_goes_on_over_other_devices(finished, text, tmp_path, stop_at):
    stop_at(3)
    with pytest.raises(Interrupted):
        train_recipe(topics.make_recipe(text, mesh=MeshShape(2, 4)), tmp_path / "run")
    stop_at(None)
    run = train_recipe(topics.make_recipe(text), tmp_path / "run")
    assert abs(run.results["loss"].value - finished.results["loss"].value) < 1e-4
    np.testing.assert_allclose(run.vectors.matrix, finished.vectors.matrix, rtol=0, atol=1e-4)


def test_finished_run_is_returned_without_training(finished, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in finished.path.rglob("*")}
    monkeypatch.setattr(word2vec, "prepare", lambda *_: pytest.fail("the text was read"))
    monkeypatch.setattr(run_module, "train", None)
    again = train_recipe(finished.recipe, finished.path)
    assert again.results == finished.results
    assert {file: file.stat().st_mtime_ns for file in finished.path.rglob("*")} == before


def test_another_recipe_in_the_directory_is_refused_by_fields(finished):
    optim = dataclasses.replace(finished.recipe.optim, lr=0.2)
    other = dataclasses.replace(finished.recipe, optim=optim, seed=3)
    with pytest.raises(
        ValueError, match=r"another recipe.*optim\.lr: 0\.1 and 0\.2; seed: 1 and 3"
    ):
        train_recipe(other, finished.path)


def test_foreign_directories_and_files_are_left_alone(text, tmp_path):
    recipe = topics.make_recipe(text)
    for name in ("letters.txt", "cache/own.txt"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        with pytest.raises(ValueError, match="not empty and holds no run"):
            train_recipe(recipe, folder)
        assert files_in(folder) == {name}
    with pytest.raises(ValueError, match=r"letters\.txt is a file; give a directory"):
        train_recipe(recipe, tmp_path / "letters.txt/letters.txt")
    with pytest.raises(FileNotFoundError, match="no run at"):
        load_run(tmp_path)


def test_start_that_was_cut_off_is_started_anew(finished, text, tmp_path, monkeypatch):
    def cut(path, content):
        raise KeyboardInterrupt

    recipe = topics.make_recipe(text)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_write_json", cut)
        assert run_guarded(lambda: train_recipe(recipe, tmp_path / "run"), "train") == 130
    assert {"vocab.json", "eval/ids.txt"} <= files_in(tmp_path / "run")
    assert_same_run(train_recipe(recipe, tmp_path / "run"), finished)


def test_changed_text_is_noticed_on_resuming(finished, tmp_path, stop_at):
    path = topics.write_text(tmp_path / "text.txt")
    recipe = topics.make_recipe(path)
    stop_at(3)
    with pytest.raises(Interrupted):
        train_recipe(recipe, tmp_path / "run")
    stop_at(None)
    ids = next((tmp_path / "run" / CACHE).glob("*.int32"))
    # Without the encoded text, the text itself is read again.
    ids.write_bytes(ids.read_bytes()[:-4])
    topics.write_text(path, seed=1)
    with pytest.raises(CorpusChangedError, match="is not what the run in"):
        train_recipe(recipe, tmp_path / "run")
    assert latest_step(tmp_path / "run") == 3
    topics.write_text(path)
    assert_same_run(train_recipe(recipe, tmp_path / "run"), finished)


def test_stored_metrics_are_computed_again_from_the_parameters(finished):
    rows = reproduce(finished.path)
    assert {name for name, *_ in rows} == {
        "loss",
        "analogies",
        "analogies/semantic",
        "analogies/syntactic",
        "pairs/human",
    }
    assert all(stored.value == value and agrees for _, stored, value, agrees in rows)
    assert main(["reproduce", str(finished.path)]) == 0


def test_tampered_parameters_are_a_mismatch(finished, copied, capsys):
    shutil.rmtree(copied / "steps")
    params = {**finished.params, "input": finished.params["input"] * 1.05}
    save_params(copied, topics.STEPS, params)
    assert not dict((name, agrees) for name, *_, agrees in reproduce(copied))["loss"]
    assert main(["reproduce", str(copied)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_retraining_gives_the_same_metrics(finished, capsys):
    rows = reproduce(finished.path, retrain=True)
    assert all(stored.value == value and agrees for _, stored, value, agrees in rows)


def test_retraining_on_changed_data_names_the_versions(copied, monkeypatch, capsys):
    def embed(version, seed):
        load = lambda: iter(topics.sentences(seed))  # noqa: E731
        toy = EmbeddedSet("text", "a toy", load, lambda: {"toy-package": version})
        monkeypatch.setitem(EMBEDDED, "toy", toy)

    content = json.loads((copied / "recipe.json").read_text())
    content["recipe"]["data"]["source"] = "toy"
    content["resolved"]["versions"] = {"toy-package": "1.0"}
    (copied / "recipe.json").write_text(json.dumps(content))
    embed("2.0", 1)
    with pytest.raises(CorpusChangedError, match=r"toy-package 1\.0 then, 2\.0 now"):
        reproduce(copied, retrain=True)
    assert main(["reproduce", str(copied), "--retrain"]) == 2
    assert "a comparison would say nothing" in capsys.readouterr().err


def test_shipped_run_keeps_parameters_only_and_reproduces(finished, tmp_path):
    shipped = ship_run(finished.path, tmp_path / "shipped")
    kept = {path.name for path in (shipped / "steps" / str(topics.STEPS)).iterdir()}
    assert "params" in kept and not kept & {"opt_state", "data", "log"}
    rest = {name for name in files_in(shipped) if not name.startswith("steps/")}
    assert rest == {name for name in files_in(finished.path) if not name.startswith("steps/")}
    assert main(["reproduce", str(shipped)]) == 0
    assert len(plot_run(shipped)) == 3
    np.testing.assert_array_equal(load_run(shipped).vectors.matrix, finished.vectors.matrix)
    with pytest.raises(ValueError, match="exists: choose another directory"):
        ship_run(finished.path, shipped)


def test_any_iterable_of_token_lists_will_do(finished, tmp_path):
    recipe = topics.make_recipe("my own sentences")
    sentences = (list(words) for words in topics.sentences())
    assert_same_run(train_recipe(recipe, tmp_path / "run", texts=sentences), finished)


def test_all_tokens_of_one_long_line_are_trained(tmp_path, monkeypatch):
    # Word i stands in tokens 25 i to 25 i + 24 only, so a part left out would leave words as is.
    monkeypatch.setattr(word2vec, "BLOCK", 1 << 18)
    words = [f"word{index}" for index in range(1000) for _ in range(25)]
    (tmp_path / "line.txt").write_text(" ".join(words))
    optim = RowSGD(lr=0.02)
    recipe = topics.make_recipe(tmp_path / "line.txt", optim=optim, epochs=2)
    run = train_recipe(recipe, tmp_path / "run")
    assert run.resolved["words"] == 25_000 and run.resolved["sentences"] == 1
    lines = [line for line in metrics(run.path) if line["name"] == "words"]
    assert [line["value"] for line in lines] == [25_000, 25_000]
    init_key = word2vec._keys(recipe)[0]
    initial = word2vec.uniform_init(init_key, (1000, 8))
    assert np.all(np.any(run.vectors.matrix != np.asarray(initial), axis=1))


@pytest.mark.parametrize(("data", "model"), [(1, 2), (1, 4), (1, 8), (2, 1)])
def test_result_differs_between_meshes_only_by_rounding(finished, text, tmp_path, data, model):
    recipe = topics.make_recipe(text, mesh=MeshShape(data, model))
    run = train_recipe(recipe, tmp_path / "run")
    assert abs(run.results["loss"].value - finished.results["loss"].value) < 1e-4
    np.testing.assert_allclose(run.vectors.matrix, finished.vectors.matrix, rtol=0, atol=1e-4)


def test_two_processes_give_the_result_of_one(finished, text, tmp_path):
    run = two_hosts.train(topics.make_recipe(text, mesh=MeshShape(data=2)), tmp_path)
    assert abs(run.results["loss"].value - finished.results["loss"].value) < 1e-4
    np.testing.assert_allclose(run.vectors.matrix, finished.vectors.matrix, rtol=0, atol=1e-4)


def test_tables_are_cut_along_the_dimension(finished, text, tmp_path):
    recipe = topics.make_recipe(text, mesh=MeshShape(2, 4))
    prepared = word2vec.prepare(recipe, tmp_path)
    training = word2vec.training(recipe, prepared, make_mesh(2, 4))
    for table in training.start().params.values():
        assert table.addressable_shards[0].data.shape == (48, word2vec.LANES // 4)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshShape(1, 3), "mesh.model is 3.*stored as 16"),
        (MeshShape(5, 1), "mesh.data is 5.*choose a divisor"),
        (MeshShape(4, 4), "asks for 16 devices, but there are 8"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(text, tmp_path, mesh, message):
    with pytest.raises(ValueError, match=message):
        train_recipe(topics.make_recipe(text, mesh=mesh), tmp_path / "run")
    assert not (tmp_path / "run/recipe.json").exists()


def test_full_disk_says_so_and_loses_nothing(finished, text, tmp_path, monkeypatch):
    recipe = topics.make_recipe(text)
    save, replace = checkpoint.ocp.save_checkpointables, os.replace

    def save_twice(path, parts):
        if Path(path).name == "6":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, parts)

    def replace_but_results(source, target):
        if Path(target).name == "results.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, "save_checkpointables", save_twice)
        with pytest.raises(OSError, match="No space left.*step 4 is kept: make room"):
            train_recipe(recipe, tmp_path / "run", checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", replace_but_results)
        with pytest.raises(OSError, match=r"no space left on the disk while writing .*results"):
            train_recipe(recipe, tmp_path / "run")
    assert latest_step(tmp_path / "run") == topics.STEPS
    assert not [name for name in files_in(tmp_path / "run") if name.endswith(".partial")]
    assert_same_run(train_recipe(recipe, tmp_path / "run"), finished)


@pytest.mark.parametrize(("last", "warns"), [(3.4, True), (3.1, False)])
def test_an_epoch_that_lost_what_one_had_is_a_warning(copied, last, warns, caplog):
    losses = [5.0, 4.0, 2.0, 4.0, last, last]  # by epochs: 4.5, 3.0 and the last
    entry = {"step": 1, "name": "loss", "work": 1, "seconds": 1}
    lines = [json.dumps(entry | {"value": value}) + "\n" for value in losses]
    (copied / "metrics.jsonl").write_text("".join(lines))
    run_module._warn_of_rising_loss(copied, epochs=3)
    assert ("optim.lr" in caplog.text) == warns


def test_divergence_is_an_error_that_says_what_to_do(text, tmp_path, capsys):
    recipe = topics.make_recipe(text, optim=RowSGD(lr=1e30))
    assert run_guarded(lambda: train_recipe(recipe, tmp_path / "run"), "train") == 2
    assert re.search("at step 1 .*lower the learning rate", capsys.readouterr().err)
    assert not (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": TextCorpus("TEXT", min_count=1, max_vocab=1)}, "vocabulary has one word"),
        ({"data": TextCorpus("TEXT", min_count=9999)}, "no word occurs 9999 times.*min_count"),
        ({"data": TextCorpus("nowhere.txt")}, "neither an embedded data set nor an existing path"),
        ({"model": SkipGram(0, dim=0)}, "model.dim is 0"),
        ({"model": SkipGram(47, dim=8)}, "model.vocab_size is 47, but the text has 48 words"),
        ({"evaluation": WordEvaluation(analogies="TEXT")}, "comes before any section"),
        ({"evaluation": WordEvaluation(pairs=("a/x.tsv", "b/x.tsv"))}, "two files of the same"),
        ({"evaluation": WordEvaluation(pairs=("PAIRS",))}, "Only 1 of 2 pairs have both words"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(text, tmp_path, changes, message):
    (tmp_path / "pairs.tsv").write_text("au\tav\t1\nking\tqueen\t2\n")
    places = {"TEXT": str(text), "PAIRS": str(tmp_path / "pairs.tsv")}

    def place(value):
        if isinstance(value, tuple):
            return tuple(map(place, value))
        return places.get(value, value) if isinstance(value, str) else value

    for name in set(changes) & {"data", "evaluation"}:
        fields = {f.name: getattr(changes[name], f.name) for f in dataclasses.fields(changes[name])}
        new = dataclasses.replace(changes[name], **{key: place(fields[key]) for key in fields})
        changes = changes | {name: new}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_recipe(topics.make_recipe(text, **changes), tmp_path / "run")
    assert not (tmp_path / "run/recipe.json").exists()


@pytest.mark.parametrize(
    ("model", "optim"),
    [
        (CBOW(0, 8), RowSGD(lr=0.1)),
        (SkipGram(0, 8, "hierarchical-softmax"), RowSGD(lr=0.1)),
    ],
)
def test_every_kind_of_model_trains_and_reproduces(text, tmp_path, model, optim):
    run = train_recipe(topics.make_recipe(text, model=model, optim=optim, epochs=1), tmp_path / "r")
    losses = [line["value"] for line in metrics(run.path) if line["name"] == "loss"]
    assert losses[-1] < losses[0]
    assert all(agrees for *_, agrees in reproduce(run.path))


@pytest.mark.parametrize(("count", "dim"), [(2, 8), (3, 8), (4, 8), (12, 8), (5, 2), (5, 1)])
def test_map_is_drawn_of_any_words(count, dim, copied, monkeypatch):
    words = ["$\\foo$", "a_b^c", "日本", "$", "тест", "\N{WOMAN}", *"bcdefgh"]
    matrix = np.random.default_rng(0).normal(size=(count, dim))
    vectors = KeyedVectors(words[:count], matrix)
    draw = functools.partial(word2vec_figures.draw_map, vectors=vectors)
    monkeypatch.setattr(word2vec, "figures", lambda *_: {"map": draw})
    assert plot_run(copied) == [copied / "figures/map.png"]


def test_analogies_without_a_known_word_can_be_drawn(finished, tmp_path):
    (tmp_path / "questions.txt").write_text(": $x$\nman king woman queen\n")
    figure = Figure()
    vectors = finished.vectors
    word2vec_figures.draw_analogies(figure, vectors, tmp_path / "questions.txt", 100)
    figure.savefig(tmp_path / "analogies.png")


def test_environment_is_described_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.describe_environment()["commit"] is None
