"""Pre-training as a task: what it learns, stopping, devices, and what a run holds."""

import json
import os
import signal

import numpy as np
import pytest

from experiments import word_in_context
from jaxembed import load_encoder
from jaxembed import run as run_module
from jaxembed.data import PieceCorpus
from jaxembed.models import Bert
from jaxembed.recipe import MaskedEvaluation, MeshShape, Recipe
from jaxembed.run import load_run, reproduce, ship_run, train_recipe
from jaxembed.train import Adam, Interrupted

WORDS = [letter + other for letter in "abcd" for other in "uvwxyz"]


def write_text(path):
    """A text in which neighbours tell a word: each is followed by the next, in documents of 8."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(240):
        start, length = draw.integers(len(WORDS)), draw.integers(3, 6)
        lines.append(" ".join(WORDS[(start + step) % len(WORDS)] for step in range(length)))
        lines += [""] if number % 8 == 7 else []
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def make_recipe(source, **changes):
    values = {
        "model": Bert(
            0, width=16, heads=2, hidden=32, layers=1, max_length=16, dropout=0.0,
            attention_dropout=0.0, word_head=True, next_head=True,
        ),
        "data": PieceCorpus(source, vocab_size=60, length=16, held_out=0.2),
        "optim": Adam(lr=0.02, schedule="linear", warmup=0.1, batch_size=16),
        "evaluation": MaskedEvaluation(most=50),
        "epochs": 3,
    }  # fmt: skip
    return Recipe(**values | changes)


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    """Drawn for `finished` alone."""
    monkeypatch.setattr(run_module, "_try_to_plot", lambda folder: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    return train_recipe(make_recipe(source), tmp_path_factory.mktemp("bert") / "run")


def losses(run, name="loss"):
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [line["value"] for line in lines if line["name"] == name]


def leaves(run):
    return {str(path): leaf for path, leaf in run_module.jax.tree.leaves_with_path(run.params)}


def test_run_has_what_the_design_lists(finished):
    figures = {file.stem for file in (finished.path / "figures").iterdir()}
    assert figures == {"accuracy", "accuracy_by_frequency", "loss"}
    assert (finished.path / "eval/held_out.npz").is_file()
    assert finished.model.vocab_size > len(WORDS) and finished.recipe.model.vocab_size == 0
    assert finished.vectors.keys[:2] == ("[PAD]", "[UNK]") and finished.vectors.dim == 16
    wanted = {"word_loss", "word_accuracy", "next_accuracy"}
    wanted |= {f"word_accuracy/{name}" for name in ("unigram", "bigram", "bigram-both-sides")}
    assert finished.results.keys() == wanted
    assert finished.results["word_accuracy/bigram"].value > 0.5
    again = load_run(finished.path)
    assert again.recipe == finished.recipe and Recipe.from_json(again.recipe.to_json())


def test_a_shipped_run_reproduces_and_is_an_encoder(finished, tmp_path):
    shipped = ship_run(finished.path, tmp_path / "shipped")
    assert all(agrees for *_, agrees in reproduce(shipped))
    encoder = load_encoder(shipped)
    vectors = encoder.encode(["au av aw", "au", ""])
    assert vectors.shape == (3, 16) and np.isfinite(vectors).all()


def test_training_anew_gives_the_same_results(finished):
    assert all(agrees for *_, agrees in reproduce(finished.path, retrain=True))


def test_stopping_and_resuming_equals_straight_through(finished, tmp_path, monkeypatch):
    def log_and_stop(folder, entry, state, log=run_module._log):
        log(folder, entry, state)
        if entry.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_log", log_and_stop)
        with pytest.raises(Interrupted):
            train_recipe(finished.recipe, tmp_path / "run")
    run = train_recipe(finished.recipe, tmp_path / "run")
    assert losses(run) == losses(finished) and len(losses(run)) > 12
    for name, leaf in leaves(run).items():
        np.testing.assert_array_equal(leaf, leaves(finished)[name])
    assert run.results == finished.results


def test_eight_devices_have_the_losses_of_one(finished, source, tmp_path):
    run = train_recipe(make_recipe(source, mesh=MeshShape(data=8)), tmp_path / "run")
    np.testing.assert_allclose(losses(run), losses(finished), rtol=1e-5)


def test_a_word_in_many_sentences_by_script(finished, tmp_path, capsys):
    lines = ["aw\tearly\tau av aw ax", "aw\tearly\tav AW ax", "aw\tlate\taw ax ay az"]
    (tmp_path / "senses.tsv").write_text("\n".join(lines) + "\n")
    config = word_in_context.Config(
        str(finished.path), tmp_path / "senses.tsv", tmp_path / "figures"
    )
    word_in_context.main(config)
    assert {file.name for file in config.out.iterdir()} == {"aw.png", "layers.png"}
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [row[0] for row in rows] == ["0", "1"]
    assert all(-1 <= float(value) <= 1 for row in rows for value in row)
    (tmp_path / "senses.tsv").write_text("aw\tnone\tau av\n" * 2)
    with pytest.raises(ValueError, match="has no word 'aw'"):
        word_in_context.main(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Bert(0, word_head=True)}, "next_head False, but loss.next_sentence is True"),
        ({"model": Bert(0, word_head=True, next_head=True, max_length=8)}, "has 8 positions"),
        ({"model": Bert(9, word_head=True, next_head=True)}, "vocab_size is 9, but the tokenizer"),
        ({"optim": Adam(batch_size=12), "mesh": MeshShape(8)}, "batch_size 12 does not divide"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(source, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_recipe(make_recipe(source, **changes), tmp_path / "run")
    assert not (tmp_path / "run/recipe.json").exists()
