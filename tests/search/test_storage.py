import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import chex
import numpy as np
import pytest

from jaxembed.search import ExactIndex, load_index, storage
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
    assert sorted(os.listdir(saved)) == ["arrays.1", "index.json"]
    assert sorted(os.listdir(saved / "arrays.1")) == ["ids.npy", "vectors.npy"]
    np.testing.assert_array_equal(np.load(saved / "arrays.1" / "ids.npy"), np.arange(9) * 2)


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


class Killed(BaseException):
    """Stands for a kill: nothing that touches the disk happens after it."""


def kill_at(monkeypatch, step):
    """Lets so many steps of a save happen; gives the list of those that did."""
    done = []

    def stop_or_go(module, name):
        go = getattr(module, name)

        def run(*arguments, **options):
            if len(done) == step:
                raise Killed
            done.append(name)
            return go(*arguments, **options)

        monkeypatch.setattr(module, name, run)

    for name in ("mkdir", "replace", "fsync", "rmdir"):
        stop_or_go(os, name)
    stop_or_go(shutil, "rmtree")
    stop_or_go(np, "save")
    return done


@pytest.mark.parametrize("replaces", [False, True])
def test_a_kill_at_any_step_leaves_the_old_index_or_the_new(replaces, tmp_path, monkeypatch):
    old, new = ExactIndex.build(VECTORS), ExactIndex.build(VECTORS[:3])
    for step in itertools.count():
        path, outcome = tmp_path / str(step), None
        if replaces:
            old.save(path)
        with monkeypatch.context() as patch:
            done = kill_at(patch, step)
            try:
                new.save(path)
            except Killed:
                outcome = "killed"
        if "replace" in done:
            chex.assert_trees_all_equal(load_index(path), new)
        elif replaces:
            chex.assert_trees_all_equal(load_index(path), old)
        else:
            with pytest.raises((FileNotFoundError, ValueError), match=r"no index"):
                load_index(path)
        old.save(path)  # what was left does not stand in the way, and goes
        chex.assert_trees_all_equal(load_index(path), old)
        assert len(os.listdir(path)) == 2
        if outcome is None:
            break
    assert {"mkdir", "replace", "fsync", "save"} <= set(done) and step > 8
    assert ("rmtree" in done) == replaces


def test_a_failed_save_tidies_up(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("no")

    ExactIndex.build(VECTORS).save(tmp_path / "old")
    monkeypatch.setattr(os, "replace", refuse)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no"):
            ExactIndex.build(VECTORS[:3]).save(tmp_path / name)
    assert load_index(tmp_path / "old").size == 9
    assert os.listdir(tmp_path) == ["old"] and len(os.listdir(tmp_path / "old")) == 2


def test_an_index_replaced_while_it_is_read_is_read_anew(saved, monkeypatch):
    read = storage._read_arrays

    def replace_first(folder, header):
        monkeypatch.setattr(storage, "_read_arrays", read)
        ExactIndex.build(VECTORS[:3]).save(saved)
        return read(folder, header)

    monkeypatch.setattr(storage, "_read_arrays", replace_first)
    assert load_index(saved).size == 3


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


def test_a_killed_process_leaves_no_index(tmp_path):
    path = tmp_path / "index"
    command = [sys.executable, "-c", KILLED, str(path), "2"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match="whose save was cut short"):
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
    file = path / "arrays.1" / "vectors.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("arrays.1/vectors.npy", 150), "vectors.npy has 150 bytes, but 272 were written"),
        (cut("arrays.1/vectors.npy", 0), "vectors.npy has 0 bytes"),
        (cut("index.json", 60), "not JSON .* was it cut short"),
        (flip, "checksum of vectors.npy differs: it was altered"),
        (lambda path: (path / "arrays.1" / "ids.npy").unlink(), "ids.npy is missing"),
        (lambda path: (path / "index.json").unlink(), "there is no index.json"),
        (lambda path: (path / "index.json").write_text("[1]"), "another program wrote it"),
        (change("format", "other"), "another program wrote it"),
        (change("version", 1), "of version 1, but this program reads 2"),
        (change("metadata", {"metric": "dot"}), "checksum differs: it was altered"),
        (change("class", "os.system"), "checksum differs: it was altered"),
        (change("folder", "../other"), "checksum differs: it was altered"),
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
