"""Files written here are searched by faiss with the same scores, and come back the same."""

import numpy as np
import pytest

from jaxembed.convert.faiss import read_faiss, write_faiss
from jaxembed.search import ExactIndex, IVFIndex, IVFPQIndex, PQIndex, ScannIndex
from jaxembed.search.scalar import Int8Index

pytestmark = pytest.mark.peers
faiss = pytest.importorskip("faiss")
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((600, 10)).astype(np.float32) + 1.0
QUERIES = RNG.standard_normal((8, 10)).astype(np.float32) + 1.0
IDS = RNG.permutation(5_000)[:600]


@pytest.mark.parametrize(
    ("cls", "metric", "options"),
    [
        (ExactIndex, "dot", {}),
        (ExactIndex, "euclidean", {"ids": IDS}),
        (Int8Index, "cosine", {"ids": IDS, "scaling": "dimension"}),
        (IVFIndex, "cosine", {"lists": 9, "probes": 3}),
        (IVFIndex, "euclidean", {"lists": 9, "probes": 3, "ids": IDS}),
        (PQIndex, "dot", {"parts": 5, "ids": IDS}),
        (PQIndex, "euclidean", {"parts": 3, "bits": 4, "rotation": "opq"}),
        (IVFPQIndex, "dot", {"parts": 3, "bits": 4, "lists": 9, "probes": 3, "rotation": "opq"}),
        (IVFPQIndex, "euclidean", {"parts": 5, "lists": 9, "probes": 3, "ids": IDS}),
    ],
)
def test_faiss_scores_the_same_and_the_index_comes_back(cls, metric, options, tmp_path):
    index = cls.build(ROWS, metric=metric, **options)
    path = tmp_path / "index.faiss"
    write_faiss(path, index)
    queries = QUERIES
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores, ids = faiss.read_index(str(path)).search(queries, 7)
    scores = np.sqrt(np.maximum(scores, 0)) if metric == "euclidean" else scores
    ours, our_ids = map(np.asarray, index.search(QUERIES, 7))
    np.testing.assert_allclose(ours, scores, rtol=1e-4, atol=1e-4)
    # Vectors of the same codes have the same score and come in any order.
    clear = np.abs(np.diff(scores, axis=1)).min(axis=1) > 1e-4
    np.testing.assert_array_equal(our_ids[clear][:, :6], ids[clear][:, :6])
    back = read_faiss(path, metric=metric)
    assert type(back) is cls and set(np.asarray(back.ids)) == set(np.asarray(index.ids))
    np.testing.assert_allclose(back.search(QUERIES, 7)[0], ours, rtol=1e-5, atol=1e-5)


def test_what_faiss_wrote_is_read(tmp_path):
    index = faiss.index_factory(10, "IVF5,SQ8")
    index.train(ROWS)
    faiss.write_index(index, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="wanted Flat, IVFFlat, PQ, IVFPQ"):
        read_faiss(tmp_path / "other")
    (tmp_path / "cut").write_bytes((tmp_path / "other").read_bytes()[:200])
    with pytest.raises(ValueError, match="no whole faiss index"):
        read_faiss(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_faiss(tmp_path / "none")


def test_a_metric_that_the_file_has_not_is_refused(tmp_path):
    write_faiss(tmp_path / "flat", ExactIndex.build(ROWS))
    with pytest.raises(ValueError, match="which is not 'euclidean'"):
        read_faiss(tmp_path / "flat", metric="euclidean")
    with pytest.raises(ValueError, match="not of length 1"):
        read_faiss(tmp_path / "flat", metric="cosine")


def test_an_index_that_faiss_has_not_is_refused(tmp_path):
    with pytest.raises(TypeError, match="ScannIndex"):
        write_faiss(tmp_path / "scann", ScannIndex.build(ROWS[:20]))
    with pytest.raises(ValueError, match="scaling='dimension'"):
        write_faiss(tmp_path / "int8", Int8Index.build(ROWS[:20]))
