import io
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.seq2seq import Config
from experiments.seq2seq import make_recipe as recipe_of
from jaxembed import run as run_module
from jaxembed.cli import main
from jaxembed.data import PairSet
from jaxembed.models import Seq2Seq, TransformerSeq2Seq
from jaxembed.recipe import MeshShape, Recipe, TranslationEvaluation
from jaxembed.run import load_run, reproduce, ship_run, train_recipe
from jaxembed.tasks import seq2seq, seq2seq_figures
from jaxembed.tasks.seq2seq_figures import trace_search
from jaxembed.train import Adam, Interrupted
from jaxembed.vectors import KeyedVectors

EPOCHS = 20
WORDS = {
    "eins": "one",
    "zwei": "two",
    "drei": "three",
    "vier": "four",
    "rot": "red",
    "blau": "blue",
}


def make_recipe(source, **changes):
    values = {
        "model": Seq2Seq(
            0, 0, embed_dim=12, width=16, bidirectional=False, context="dot", dropout=0.1
        ),
        "data": PairSet(str(source), ("de", "en"), source_unit="words", max_len=8),
        "optim": Adam(lr=0.03, batch_size=32, schedule="cosine"),
        "evaluation": TranslationEvaluation("error-rates", beam=3),
        "epochs": EPOCHS,
        "seed": 3,
    }
    return Recipe(**values | changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Sentences that are translated word by word."""
    folder = tmp_path_factory.mktemp("words")
    generator = np.random.default_rng(0)
    for split, count in {"train": 240, "test": 24}.items():
        lines = [generator.choice(list(WORDS), generator.integers(3, 5)) for _ in range(count)]
        (folder / f"{split}.de").write_text("".join(" ".join(line) + "\n" for line in lines))
        english = [" ".join(WORDS[word] for word in line) for line in lines]
        (folder / f"{split}.en").write_text("".join(line + "\n" for line in english))
    return folder


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seq2seq_figures, "BEAMS", (1, 3))
        return train_recipe(make_recipe(source), tmp_path_factory.mktemp("words-run") / "run")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    """Drawn for `finished` alone."""
    monkeypatch.setattr(run_module, "_try_to_plot", lambda folder: None)


def losses(run):
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [line["value"] for line in lines if line["name"] == "loss"]


def translate(run, capsys, monkeypatch, text, *words):
    """What `jaxembed translate` prints, and its exit code."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    code = main(["translate", str(run.path), *words])
    return code, out.buffer.getvalue().decode().split("\n")[:-1], capsys.readouterr().err


def test_run_learns_and_has_what_the_design_lists(finished):
    figures = {file.stem for file in (finished.path / "figures").iterdir()}
    assert figures == {"alignment", "beam_sizes", "beam_tree", "loss"}
    assert (finished.path / "vocab.source.json").exists()
    assert finished.results["token_error/beam-3"].value < 0.5
    assert finished.results["sequence_error/greedy"].count == 24
    assert losses(finished)[-1] < 0.5 * losses(finished)[0]
    assert finished.model.source_vocab == 4 + len(WORDS)
    assert set(finished.vectors.keys) > set(WORDS) and finished.vectors.dim == 12


def test_a_shipped_run_reproduces(finished, tmp_path):
    shipped = ship_run(finished.path, tmp_path / "shipped")
    assert all(agrees for *_, agrees in reproduce(shipped))


def test_stopping_and_resuming_equals_straight_through(finished, source, tmp_path, monkeypatch):
    def log_and_stop(folder, entry, state, log=run_module._log):
        log(folder, entry, state)
        if entry.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_log", log_and_stop)
        with pytest.raises(Interrupted):
            train_recipe(make_recipe(source), tmp_path / "run")
    resumed = train_recipe(make_recipe(source), tmp_path / "run")
    assert losses(resumed) == losses(finished)
    assert resumed.results == finished.results


def test_eight_devices_train_as_one(finished, source, tmp_path):
    spread = train_recipe(make_recipe(source, mesh=MeshShape(8, 1)), tmp_path / "run")
    np.testing.assert_allclose(losses(spread), losses(finished), rtol=2e-4)


def test_lines_come_out_in_order_whatever_the_batch(finished, monkeypatch):
    test = seq2seq.load_test(finished.path)
    whole = [found[0].text for found, _ in finished.translate(test.sources, beam_size=3)]
    monkeypatch.setattr(seq2seq, "CHUNK", 5)
    parts = [found[0].text for found, _ in finished.translate(test.sources, beam_size=3)]
    assert whole == parts and len(whole) == len(test)


def test_lines_that_cannot_be_translated_are_named_and_the_others_are(
    finished, capsys, monkeypatch
):
    text = "eins zwei\n\nrot \u00fcbel\n".encode() + b"\xff\n" + b"rot " * 12 + b"\nblau\n"
    code, out, err = translate(finished, capsys, monkeypatch, text)
    assert code == 0 and len(out) == 6
    assert out[1] == out[3] == "" and all(out[place] for place in (0, 2, 4, 5))
    for message in (
        "line 2 is empty",
        "line 3 holds tokens that the model does not know: '\u00fcbel'",
        "line 4 is not UTF-8",
        "line 5 has 12 tokens, more than the 7",
    ):
        assert message in err
    alone = translate(finished, capsys, monkeypatch, b"eins zwei\n")[1]
    assert alone == out[:1]


def test_n_best_are_numbered_and_fall_in_score(finished, capsys, monkeypatch):
    words = ("--n-best", "3", "--scores", "--beam", "4")
    code, out, _ = translate(finished, capsys, monkeypatch, b"eins\nzwei rot\n", *words)
    rows = [line.split("\t") for line in out]
    assert code == 0 and [row[0] for row in rows] == list("111222")
    scores = np.array([float(row[1]) for row in rows]).reshape(2, 3)
    assert (np.diff(scores) <= 0).all() and len({row[2] for row in rows[:3]}) == 3
    assert translate(finished, capsys, monkeypatch, b"eins\n", "--n-best", "9")[0] == 2


def test_a_traced_search_finds_what_beam_search_finds(finished):
    (found, _), *_ = finished.translate(["zwei rot blau"], beam_size=3)
    source, target = (seq2seq._load_vocabulary(finished.path, side) for side in seq2seq.SIDES)
    branches = trace_search(
        finished.model,
        finished.params,
        [*source.encode("zwei rot blau"), 2],
        beam_size=3,
        max_len=8,
    )
    best = max(
        (branch for branch in branches if branch.fate == "finished"), key=lambda one: one.score
    )
    assert best.score == pytest.approx(found[0].score, abs=1e-4)
    tokens = []
    while best.parent >= 0:
        tokens.append(best.token)
        best = branches[best.parent]
    assert target.decode(tokens[::-1]) == found[0].text
    assert {branch.fate for branch in branches} == {"live", "finished", "pruned"}


def test_token_vectors_start_from_given_ones(source, tmp_path):
    matrix = np.arange(24, dtype=np.float32).reshape(2, 12)
    KeyedVectors(["rot", "unheard"], matrix, [2, 1]).save(tmp_path / "v.safetensors")
    given = PairSet(
        str(source),
        ("de", "en"),
        source_unit="words",
        max_len=8,
        source_vectors=str(tmp_path / "v.safetensors"),
    )
    recipe = make_recipe(source, data=given)
    prepared = seq2seq.prepare(recipe, tmp_path)
    params = seq2seq._init(
        recipe.with_sizes(prepared.resolved).model, prepared.data.vectors, jax.random.key(0)
    )
    vocabulary = seq2seq.load_token_vocabulary(prepared.files["vocab.source.json"].decode())
    (row,) = vocabulary.encode("rot")
    table = np.asarray(params["source_embedding"]["embedding"])
    np.testing.assert_array_equal(table[row], matrix[0])
    assert np.abs(np.delete(table, row, axis=0)).max() < 6
    plain = seq2seq.prepare(make_recipe(source), tmp_path)
    assert plain.resolved["fingerprint"] != prepared.resolved["fingerprint"]
    with pytest.raises(ValueError, match=r"12 numbers, but .* have 7: set model.embed_dim to 12"):
        seq2seq.prepare(make_recipe(source, data=given, model=Seq2Seq(0, 0, embed_dim=7)), tmp_path)


def test_a_transformer_with_joint_subwords_trains_and_is_scored_by_bleu(source, tmp_path):
    (tmp_path / "pairs").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"pairs/{split}.de").write_text("rot eins\nrot zwei\n" * 8)
        (tmp_path / f"pairs/{split}.en").write_text("red one\nred two\n" * 8)
    data = PairSet(
        str(tmp_path / "pairs"),
        ("de", "en"),
        source_unit="subwords",
        target_unit="subwords",
        max_vocab=60,
        joint=True,
        max_len=24,
    )
    model = TransformerSeq2Seq(
        0,
        0,
        width=16,
        heads=2,
        hidden=16,
        encoder_layers=1,
        decoder_layers=1,
        max_length=24,
        shared=True,
    )
    recipe = make_recipe(
        source, data=data, model=model, epochs=1, evaluation=TranslationEvaluation(beam=2, most=8)
    )
    run = train_recipe(recipe, tmp_path / "run")
    assert run.results["bleu/beam-2"].count == 8 and 0 <= run.results["bleu/greedy"].value <= 100
    assert load_run(run.path).model.source_vocab == run.model.target_vocab
    with pytest.raises(ValueError, match="raise model.max_length"):
        seq2seq.prepare(make_recipe(source, data=data, model=model.clone(max_length=8)), tmp_path)
    with pytest.raises(ValueError, match=r"set data\.joint"):
        seq2seq.prepare(make_recipe(source, model=model), tmp_path)


def test_what_does_not_fit_is_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(KeyError, match=r"no files in 'fr'.*\['de', 'en'\]"):
        train_recipe(make_recipe(source, data=PairSet(str(source), ("de", "fr"))), tmp_path / "run")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/train.de").write_text("a\nb\n")
    (tmp_path / "pairs/train.en").write_text("a\n")
    with pytest.raises(ValueError, match="line 2 has no partner"):
        train_recipe(
            make_recipe(source, data=PairSet(str(tmp_path / "pairs"), ("de", "en"))),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="length penalty"):
        TranslationEvaluation(length_penalty="long")


def test_features_of_a_tfds_set_are_pairs(monkeypatch):
    rows = [
        {"pt": b"um", "en": b"one"},
        {"pt": b"  ", "en": b"none"},
        {"pt": b"dois", "en": b"two"},
    ]
    monkeypatch.setattr("jaxembed.data.pairs.open_tfds", lambda name: rows)
    data = recipe_of(Config(Path("x"), "tfds:set/pt_to_en", source="pt", target="en")).data
    assert data.open("train").sources == ("um", "dois")
    with pytest.raises(KeyError, match=r"no 'de': its features are \['en', 'pt'\]"):
        PairSet("tfds:set", ("de", "en")).open("train")
