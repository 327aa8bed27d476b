import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import topics

from experiments import word2vec as experiment
from experiments.vae import Config as VaeConfig
from jaxembed.cli import _overrides, main, run_experiment, shrink
from jaxembed.run import load_run
from jaxembed.tasks import word2vec
from jaxembed.vectors import KeyedVectors

TESTS = Path(__file__).parent
PREPARE = """
import sys
import tiny_tfds, tensorflow_datasets as tfds
tfds.builder("tiny_tfds", data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word2vec, "BLOCK", topics.BLOCK)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return topics.finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return topics.write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def file(tmp_path):
    """A small file of vectors in the native format."""
    path = tmp_path / "vectors.safetensors"
    matrix = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.8]], np.float32)
    KeyedVectors(["cat", "dog", "New York", "Tokyo"], matrix, [4, 3, 2, 1]).save(path)
    return path


def call(*words):
    """Runs `jaxembed WORDS`."""
    return main([str(word) for word in words])


def experiment_call(*words):
    """Runs `python -m experiments.word2vec WORDS`, short of leaving Python."""
    return run_experiment(
        experiment.make_recipe,
        experiment.Config,
        smoke={"dim": 8, "epochs": 1, "max_vocab": 2_000},
        report=experiment.report,
        description="",
        arguments=[str(word) for word in words],
    )


def test_nearest_of_a_run_and_of_a_file(finished, file, capsys):
    assert call("nearest", finished.path, "au", "-k", 5) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(word, float(score)) for word, score in lines] == [
        (word, pytest.approx(score, abs=1e-4)) for word, score in finished.vectors.nearest("au", 5)
    ]
    assert call("nearest", file, "New York", "--k", 1) == 0
    assert capsys.readouterr().out.split() == ["Tokyo", "0.9923"]


def test_analogy_of_a_run_and_of_a_file(finished, file, capsys):
    assert call("analogy", finished.path, "au", "av", "bu") == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "au is to av as bu is to"
    wanted = finished.vectors.analogy("au", "av", "bu", 5)
    assert [line.split()[0] for line in lines] == [word for word, _ in wanted]
    assert call("analogy", file, "cat", "dog", "New York", "-k", 1) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "Tokyo"


ENDINGS = [".safetensors", ".bin", ".bin.gz", ".txt", ".txt.gz", ".vec", ".vec.gz"]
ENDINGS += [".glove", ".glove.txt", ".glove.txt.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_written_and_read_back(finished, tmp_path, ending, capsys):
    there, back = tmp_path / f"there{ending}", tmp_path / "back.safetensors"
    assert call("convert", finished.path, there) == 0
    assert f"48 vectors of 8 numbers in {there}" in capsys.readouterr().out
    assert call("convert", there, back) == 0
    vectors = KeyedVectors.load(back)
    assert vectors.keys == finished.vectors.keys
    np.testing.assert_array_equal(vectors.matrix, finished.vectors.matrix)
    if ending == ".safetensors":
        np.testing.assert_array_equal(vectors.counts, finished.vectors.counts)


def test_limit_takes_the_first_vectors_of_a_run_and_of_a_file(finished, file, tmp_path, capsys):
    for source, keys in ((finished.path, finished.vectors.keys), (file, ("cat", "dog"))):
        assert call("convert", source, tmp_path / "few.safetensors", "--limit", 2) == 0
        few = KeyedVectors.load(tmp_path / "few.safetensors")
        assert few.keys == keys[:2] and few.counts.shape == (2,)
        assert call("convert", source, tmp_path / "none.bin", "--limit", 0) == 2
        assert "limit is 0" in capsys.readouterr().err


def test_space_in_a_key_is_replaced_or_refused(file, tmp_path, capsys):
    assert call("convert", file, tmp_path / "out.txt") == 2
    assert "'New York'" in capsys.readouterr().err
    assert not (tmp_path / "out.txt").exists()
    assert call("convert", file, tmp_path / "out.txt", "--space", "_") == 0
    assert KeyedVectors.load(tmp_path / "out.txt").keys[2] == "New_York"


def test_evaluate_repeats_what_the_run_stored(finished, capsys):
    questions = finished.path / "eval/analogies.txt"
    pairs = finished.path / "eval/pairs/human.txt"
    words = ["--analogies", questions, "--pairs", pairs, "--neighbours", "au", "bv", "-k", 3]
    assert call("evaluate", finished.path, *words) == 0
    out = capsys.readouterr().out
    assert "(3 of 3 questions are of known words)" in out
    results = finished.results
    assert f"human.txt: Spearman {results['pairs/human'].value:.4f}" in out
    overall = next(line.split() for line in out.splitlines() if line.startswith("  overall"))
    assert float(overall[-1]) == pytest.approx(results["analogies"].value, abs=1e-4)
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["au", "bv"]


def test_figures_are_drawn_and_not_blank(finished, tmp_path, capsys):
    shutil.copytree(finished.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/figures")
    assert call("plot", tmp_path / "run") == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in files} == {"map.png", "loss.png", "analogies.png"}
    for path in [*files, *(finished.path / "figures").iterdir()]:
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 300 and pixels.shape[1] > 300
        # A blank page or one of axes alone is almost only white.
        assert 0.005 < np.mean(np.any(pixels[..., :3] < 0.9, axis=-1)) < 0.95


def test_reproduce_and_ship(finished, tmp_path, capsys):
    assert call("ship", finished.path, tmp_path / "shipped") == 0
    assert str(tmp_path / "shipped") in capsys.readouterr().out
    assert call("reproduce", tmp_path / "shipped") == 0
    assert capsys.readouterr().out.count("equal") == len(finished.results)
    stored = json.loads((tmp_path / "shipped/results.json").read_text())
    stored["loss"]["value"] += 0.01
    (tmp_path / "shipped/results.json").write_text(json.dumps(stored))
    assert call("reproduce", tmp_path / "shipped") == 1
    (tmp_path / "shipped/eval/analogies.txt").unlink()
    assert call("reproduce", tmp_path / "shipped") == 2
    assert "a file of the run is missing or was added" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["nearest PATH au", "plot PATH", "reproduce PATH", "ship PATH x"])
def test_missing_run_is_named(tmp_path, verb, capsys):
    assert call(*verb.replace("PATH", str(tmp_path / "none")).split()) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "none") in error and "no run" in error


def test_wrong_input_is_a_message_and_exit_code_2(finished, file, tmp_path, capsys):
    whole = tmp_path / "whole.bin"
    assert call("convert", finished.path, whole) == 0
    (tmp_path / "cut.bin").write_bytes(whole.read_bytes()[:-5])
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-5])
    (tmp_path / "noise.txt").write_bytes(bytes(range(256)) * 8)
    for words, message in [
        (
            ("nearest", finished.path, "auu"),
            "'auu' is not among the 48 keys; close spellings: 'au'",
        ),
        (("nearest", finished.path, "AU"), "close spellings: 'au'"),
        (("analogy", file, "cat", "dogg", "Tokyo"), "'dogg' is not among the 4 keys"),
        (("nearest", file, "cat", "-k", 0), "k is 0"),
        (("nearest", tmp_path, "cat"), f"no run at {tmp_path}"),
        (("nearest", tmp_path / "cut.bin", "au"), "cut.bin"),
        (("nearest", tmp_path / "cut.safetensors", "cat"), "was it cut short?"),
        (("nearest", tmp_path / "noise.txt", "cat"), "noise.txt"),
        (("convert", file, tmp_path / "out.xlsx"), "does not say a format"),
        (("convert", file, tmp_path / "none" / "out"), "does not say a format"),
        (("evaluate", file), "nothing to evaluate"),
        (("evaluate", file, "--pairs", tmp_path / "none.tsv"), "none.tsv"),
        (("evaluate", file, "--neighbours", "rat"), "'rat'"),
    ]:
        assert call(*words) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("jaxembed: ") and message in error, (words, error)
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nearest", "x", "y", "--kk", "3"], "--kk"),
        (["nearst", "x"], "nearst"),
        (["nearest", "x"], "word"),
        ([], "VERB"),
    ],
)
def test_wrong_words_of_the_command_are_named(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err


def test_experiment_trains_and_the_same_command_returns_at_once(text, tmp_path, capsys):
    words = ["--data", text, "--workdir", tmp_path / "run", "--smoke", "--data.min_count=1"]
    words += ["--optim.lr", "0.1", "--optim.final_lr=0.001", "--loss.sample", "0", "--seed", 3]
    assert experiment_call(*words) == 0
    first = capsys.readouterr().out
    assert "loss" in first and f"{tmp_path / 'run'} holds the run" in first
    recipe = load_run(tmp_path / "run").recipe
    assert (recipe.model.dim, recipe.epochs, recipe.seed) == (8, 1, 3)
    assert (recipe.optim.lr, recipe.optim.final_lr, recipe.loss.sample) == (0.1, 0.001, 0.0)
    assert recipe.data.min_count == 1
    assert experiment_call(*words) == 0
    second = capsys.readouterr().out
    assert first.splitlines()[:-1] == second.splitlines()[:-1]
    assert experiment_call(*words, "--seed", 4) == 2
    assert "seed: 3 and 4" in capsys.readouterr().err


def test_experiment_reads_tfds_by_name_without_tensorflow(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "JAX_PLATFORMS": "cpu"}
    environment["TFDS_DATA_DIR"] = str(tmp_path)
    prepare = [sys.executable, "-c", PREPARE, str(tmp_path)]
    subprocess.run(prepare, env=environment, check=True, capture_output=True)
    # A process of its own, as a user's; it is also the test of `python -m`.
    code = (
        "import runpy, sys, tiny_tfds\n"
        "sys.argv[1:] = ['--data', 'tfds:tiny_tfds', '--min-count', '1', '--smoke', '--workdir', "
        "sys.argv[1]]\n"
        "try:\n    runpy.run_module('experiments.word2vec', run_name='__main__')\n"
        "finally:\n    assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "run")
    assert run.recipe.model.dim == 16 and run.recipe.epochs == 1
    assert run.resolved["versions"].keys() == {"tensorflow-datasets"}
    assert run.vectors.keys[0] in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], "no option --optim.lrr. Did you mean 'optim.lr'?"),
        (["--optim.lr"], "--optim.lr needs a value"),
        (["--optim.positions", "16384"], "16384 positions"),
        (["--model.vocab_size", "7"], "model.vocab_size is 7, but"),
        (["--dimm", "3"], "no option --dimm. Did you mean 'dim'?"),
        (["--dimm=3"], "no option --dimm. Did you mean 'dim'?"),
        (["--epoch", "3"], "no option --epoch. Did you mean 'epochs'?"),
        (["--smokee"], "no option --smokee. Did you mean 'smoke'?"),
        (["--data.min_counts", "3"], "no option --data.min_counts. Did you mean 'data.min_count'?"),
        (["--dim", "0"], "model.dim is 0"),
        (["--min-count", "99999"], "no word occurs 99999 times"),
        (["--data", "docstring"], "Did you mean 'docstrings'?"),
        (["--data", "FOLDER/none.txt"], "none.txt' is neither"),
        (["--data", "FOLDER/empty.txt"], "empty.txt is empty"),
        (["--data", "FOLDER/binary"], "binary holds a NUL byte at offset 0"),
        (["--data", "FOLDER/latin.txt"], "latin.txt is not UTF-8 text: byte 0xe9 at offset 3"),
        (["--data", "FOLDER/blank.txt"], "no words at all"),
        (["--eval-analogies", "FOLDER/none.txt"], "none.txt"),
    ],
)
def test_experiment_says_what_is_wrong_and_starts_nothing(text, tmp_path, words, message, capsys):
    contents = {"empty.txt": b"", "binary": bytes(99), "latin.txt": b"caf\xe9", "blank.txt": b" \n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    words = [word.replace("FOLDER", str(tmp_path)) for word in words]
    assert experiment_call("--data", text, "--workdir", tmp_path / "run", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/recipe.json").exists()


def test_overrides_are_read_with_space_and_equals_sign():
    words = ["--a.b", "-1", "--c.d=x=y", "--e.f", "--g.h=1"]
    with pytest.raises(ValueError, match="--e.f needs a value"):
        _overrides(words, experiment.Config)
    assert _overrides(words[:3], experiment.Config) == {"a.b": "-1", "c.d": "x=y"}
    with pytest.raises(ValueError, match="stray 'x'"):
        _overrides(["x"], experiment.Config)


def test_smoke_leaves_what_was_asked_for():
    config = VaeConfig(Path("run"), latent=3, smoke=True)
    small = shrink(config, {"latent": 2, "epochs": 3})
    assert (small.latent, small.epochs, small.hidden) == (3, 3, config.hidden)
