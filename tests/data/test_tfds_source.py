import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxembed.data import encode_corpus, make_batches, open_tfds, read_sentences

TESTS = pathlib.Path(__file__).parents[1]
PREPARE = """
import sys
import tiny_tfds, tensorflow_datasets as tfds
tfds.builder("tiny_tfds", data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
READ = """
import sys
import tiny_tfds
from jaxembed.data import open_tfds, read_sentences
assert len(open_tfds("tfds:tiny_tfds:test")) == 2
assert len(list(read_sentences("tfds:tiny_tfds"))) == 8
assert "tensorflow" not in sys.modules
"""


def run_python(code, *arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the tiny set, prepared offline."""
    folder = tmp_path_factory.mktemp("tfds")
    done = run_python(PREPARE, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def tiny(prepared, monkeypatch):
    """The tiny set's module, with the prepared folder as the default."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    import tiny_tfds.tiny_tfds_dataset_builder as builder

    return builder


def test_prepared_data_are_read_without_tensorflow(prepared):
    done = run_python(READ, TFDS_DATA_DIR=str(prepared))
    assert done.returncode == 0, done.stderr


def test_elements_equal_what_was_generated(tiny):
    source = open_tfds("tfds:tiny_tfds:train")
    assert len(source) == 4
    found = {source[index]["text"].decode(): source[index]["image"] for index in range(4)}
    assert sorted(found) == sorted(tiny.TEXTS[:4])
    for number in range(4):
        np.testing.assert_array_equal(found[tiny.TEXTS[number]], tiny.picture(number))


def test_split_slices_and_versions_are_understood(tiny):
    assert len(open_tfds("tfds:tiny_tfds")) == 4
    assert len(open_tfds("tfds:tiny_tfds:train[:50%]")) == 2
    assert len(open_tfds("tfds:tiny_tfds:1.0.0:test")) == 2
    assert len(open_tfds("tfds:tiny_tfds:train[:1]+test")) == 3


def test_lines_of_the_text_feature_are_sentences(tiny, tmp_path):
    pieces = list(read_sentences("tfds:tiny_tfds:test"))
    wanted = sorted(
        [
            *(text.split("\n")[0].split() for text in tiny.TEXTS[4:]),
            "a second line".split(),
            "a second line".split(),
        ]
    )
    assert sorted(tokens for tokens, _ in pieces) == wanted
    corpus = encode_corpus("tfds:tiny_tfds:test", tmp_path / "ids", min_count=1)
    assert (corpus.sentences, corpus.total_words) == (4, 20)


def test_images_go_through_the_pipeline(tiny):
    source = open_tfds("tfds:tiny_tfds")
    (batch,) = make_batches(source, batch_size=6, seed=0, shuffle=True, epochs=1)
    assert batch["image"].shape == (6, 4, 4, 3)
    assert batch["mask"].tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tfds:", ValueError, "write tfds:NAME"),
        ("tfds:tiny_tfds:validation", KeyError, "has no split 'validation'.*test.*train"),
        ("tfds:no_such_set_anywhere", ValueError, "set TFDS_DATA_DIR"),
    ],
)
def test_wrong_names_say_what_is_right(tiny, name, error, message):
    with pytest.raises(error, match=message):
        open_tfds(name)


def test_unprepared_data_say_how_to_prepare(tiny, tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiny.TinyTfds, "_split_generators", fail)
    with pytest.raises(ValueError, match="no network.*file_format='array_record'"):
        open_tfds("tfds:tiny_tfds", data_dir=tmp_path)
