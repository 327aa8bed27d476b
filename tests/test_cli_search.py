import json

import numpy as np
import pytest

from jaxembed import cli
from jaxembed.search import ExactIndex, load_index


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    vectors, queries = random.standard_normal((60, 8)), random.standard_normal((5, 8))
    np.save(tmp_path / "v.npy", vectors.astype(np.float32))
    np.save(tmp_path / "q.npy", queries.astype(np.float32))
    np.save(tmp_path / "ids.npy", np.arange(60) + 100)
    return tmp_path


@pytest.mark.parametrize("kind", ["exact", "int8", "scann"])
def test_index_then_search(files, capsys, kind):
    out = str(files / "index")
    words = ["index", str(files / "v.npy"), "--kind", kind, "--metric", "cosine", "--out", out]
    assert cli.main([*words, "--ids", str(files / "ids.npy")]) == 0
    assert "60 vectors of 8 numbers" in capsys.readouterr().out
    index = load_index(out)
    assert type(index) is cli.INDICES[kind] and index.metric == "cosine"
    assert cli.main(["search", out, "--queries", str(files / "q.npy"), "--k", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    scores, ids = index.search(np.load(files / "q.npy"), 3)
    assert [line[0] for line in lines] == list("01234")
    assert [[int(pair.split(":")[0]) for pair in line[1:]] for line in lines] == ids.tolist()
    printed = [[float(pair.split(":")[1]) for pair in line[1:]] for line in lines]
    np.testing.assert_allclose(printed, scores, rtol=1e-4, atol=1e-6)


def test_results_go_to_a_file(files, capsys):
    ExactIndex.build(np.load(files / "v.npy")).save(files / "index")
    out = files / "found.npz"
    words = ["search", str(files / "index"), "--queries", str(files / "q.npy"), "--out", str(out)]
    assert cli.main(words) == 0
    with np.load(out) as found:
        scores, ids = ExactIndex.load(files / "index").search(np.load(files / "q.npy"), 10)
        np.testing.assert_array_equal(found["ids"], ids)
        np.testing.assert_array_equal(found["scores"], scores)


def test_every_kind_of_index_has_a_name():
    assert {"exact", "ivf", "pq", "ivfpq", "scann", "int8", "binary", "lsh", "tree"} <= {
        *cli.INDICES
    }


def save(name, array):
    def write(folder):
        np.save(folder / name, array)

    return write


def truncate(folder):
    (folder / "v.npy").write_bytes((folder / "v.npy").read_bytes()[:300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "v.npy").unlink(), "there is no file"),
        (lambda folder: (folder / "v.npy").write_text("1 2 3"), "is not a .npy file"),
        (truncate, "is not a .npy file of numbers"),
        (save("v.npy", np.ones(5)), r"of shape (5,): wanted numbers of shape [count, dim]"),
        (save("v.npy", np.ones((0, 5))), "at least one row"),
        (save("v.npy", np.asarray([["a"]])), "wanted numbers"),
        (save("v.npy", np.asarray([[1.0], [np.nan]])), "Row 1 of the vectors has a NaN"),
        (save("ids.npy", np.arange(3)), "wanted one integer for each of the 60"),
        (save("ids.npy", np.zeros(60, int)), "id 0 comes more than once"),
    ],
)
def test_bad_vectors_are_refused(files, capsys, damage, message):
    damage(files)
    words = ["index", str(files / "v.npy"), "--ids", str(files / "ids.npy")]
    assert cli.main([*words, "--out", str(files / "index")]) == 2
    assert message in capsys.readouterr().err
    assert not (files / "index").exists()


def test_bad_searches_are_refused(files, capsys):
    ExactIndex.build(np.load(files / "v.npy")).save(files / "index")
    index, queries = str(files / "index"), str(files / "q.npy")

    def refusal(*words):
        assert cli.main(["search", *words]) == 2
        return capsys.readouterr().err

    assert "k is 0" in refusal(index, "--queries", queries, "--k", "0")
    assert "There is no index" in refusal(index + "x", "--queries", queries)
    assert "there is no index.json" in refusal(str(files), "--queries", queries)
    assert "there is no file" in refusal(index, "--queries", queries + "x")
    np.save(files / "wide.npy", np.ones((2, 9)))
    assert "vectors of 9 numbers, but the index of 8" in refusal(
        index, "--queries", str(files / "wide.npy")
    )
    header = files / "index" / "index.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"class": "Popen"}))
    assert "it was altered" in refusal(index, "--queries", queries)
    with pytest.raises(SystemExit):
        cli.main(["index", "v.npy", "--kind", "magic", "--out", "x"])


def test_something_else_is_not_overwritten(files, capsys):
    words = ["index", str(files / "v.npy"), "--out", str(files)]
    assert cli.main(words) == 2
    assert "exists and is not an index" in capsys.readouterr().err
    assert (files / "q.npy").exists()
