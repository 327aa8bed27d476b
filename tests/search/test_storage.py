import json
import os
import signal
import subprocess
import sys

import chex
import numpy as np
import pytest

from jaxembed.search import ExactIndex, load_index
from jaxembed.search.storage import write_directory

VECTORS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    ExactIndex.build(VECTORS, metric="cosine", ids=np.arange(9) * 2).save(tmp_path / "index")
    return tmp_path / "index"


def test_comes_back_bit_for_bit(saved):
    index = ExactIndex.build(VECTORS, metric="cosine", ids=np.arange(9) * 2)
    for loaded in (load_index(saved), ExactIndex.load(str(saved))):
        chex.assert_trees_all_equal(loaded, index)
        assert loaded.metric == "cosine"
    assert sorted(os.listdir(saved)) == ["ids.npy", "index.json", "vectors.npy"]
    np.testing.assert_array_equal(np.load(saved / "ids.npy"), np.arange(9) * 2)


def test_replaces_an_index_and_nothing_else(saved, tmp_path):
    ExactIndex.build(VECTORS[:3]).save(saved)
    assert load_index(saved).size == 3
    assert os.listdir(tmp_path) == ["index"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not an index"):
        ExactIndex.build(VECTORS).save(mine)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="exists and is not an index"):
        ExactIndex.build(VECTORS).save(tmp_path / "file")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_index(saved, tmp_path):
    with pytest.raises(ValueError, match="dtype object"):
        write_directory(saved, "ExactIndex", {}, {"a": np.ones(3), "b": np.asarray([None])})
    assert load_index(saved).size == 9
    assert os.listdir(tmp_path) == ["index"]


def test_a_failed_rename_brings_the_old_index_back(saved, tmp_path, monkeypatch):
    rename, calls = os.rename, []

    def fail_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="no"):
        ExactIndex.build(VECTORS[:3]).save(saved)
    assert load_index(saved).size == 9
    assert os.listdir(tmp_path) == ["index"]


KILLED = """
import os, sys, signal
import numpy as np
from jaxembed.search import storage
flush, left = storage._flush, [int(sys.argv[2])]
def flush_or_die(file):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    flush(file)
storage._flush = flush_or_die
storage.write_directory(sys.argv[1], "ExactIndex", {"metric": "dot"},
                        {"vectors": np.ones((5, 2), np.float32), "ids": np.arange(5)})
"""


@pytest.mark.parametrize("files_written", [0, 2])
def test_a_killed_save_leaves_no_index(tmp_path, files_written):
    path = tmp_path / "index"
    command = [sys.executable, "-c", KILLED, str(path), str(files_written)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="There is no index"):
        load_index(path)
    ExactIndex.build(VECTORS).save(path)  # what was left does not stand in the way
    assert load_index(path).size == 9


def change(key, value):
    def edit(path):
        header = json.loads((path / "index.json").read_text())
        header[key] = value
        (path / "index.json").write_text(json.dumps(header))

    return edit


def cut(name, keep):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:keep])


def flip(path):
    data = bytearray((path / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (path / "vectors.npy").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("vectors.npy", 150), "vectors.npy has 150 bytes, but 272 were written"),
        (cut("vectors.npy", 0), "vectors.npy has 0 bytes"),
        (cut("index.json", 60), "not JSON .* was it cut short"),
        (flip, "checksum of vectors.npy differs: it was altered"),
        (lambda path: (path / "ids.npy").unlink(), "ids.npy is missing"),
        (lambda path: (path / "index.json").unlink(), "there is no index.json"),
        (lambda path: (path / "index.json").write_text("[1]"), "another program wrote it"),
        (change("format", "other"), "another program wrote it"),
        (change("version", 2), "of version 2, but this program reads 1"),
        (change("metadata", {"metric": "dot"}), "checksum differs: it was altered"),
        (change("class", "os.system"), "checksum differs: it was altered"),
    ],
)
def test_damage_is_refused_with_its_reason(saved, damage, message):
    damage(saved)
    with pytest.raises(ValueError, match=message):
        load_index(saved)


def test_foreign_classes_and_fields_are_refused(tmp_path):
    write_directory(tmp_path / "a", "Popen", {}, {"vectors": np.ones(2)})
    with pytest.raises(ValueError, match="holds a 'Popen', which is none of .*ExactIndex"):
        load_index(tmp_path / "a")
    write_directory(tmp_path / "b", "ExactIndex", {"metric": "dot"}, {"vectors": np.ones((2, 2))})
    with pytest.raises(ValueError, match="written by another version"):
        load_index(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "c")
    with pytest.raises(ValueError, match="there is no index.json"):
        load_index(tmp_path)
