import subprocess
import sys

import numpy as np
import pytest
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed.search.streaming import stream_top_k

METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("count", "k", "rows"), [(50, 7, 16), (50, 60, 16), (9, 3, 100)])
def test_equals_scoring_every_pair(metric, count, k, rows, tmp_path):
    queries, vectors = draw(0, 3, 5), draw(1, count, 5)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    scores, ids = stream_top_k(queries, mapped, k, metric=metric, rows_at_once=rows)
    expected_scores, expected_ids = naive_top_k(queries, vectors, k, metric)
    sign = -1 if metric == "euclidean" else 1
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, sign * expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["mask", "range"])
def test_where_comes_before_k(where):
    queries, vectors = draw(2, 3, 4), draw(3, 40, 4)
    mask = (np.arange(40) >= 13) & (np.arange(40) < 31)
    given = mask if where == "mask" else (13, 31)
    _, ids = stream_top_k(queries, vectors, 20, where=given, rows_at_once=8)
    _, expected = naive_top_k(queries, vectors[mask], 20)
    np.testing.assert_array_equal(ids, np.where(expected < 0, -1, expected + 13))


class Watched:
    """Rows that note how many are read at once."""

    def __init__(self, rows):
        self.rows, self.shape, self.most = rows, rows.shape, 0

    def __getitem__(self, rows):
        part = self.rows[rows]
        self.most = max(self.most, len(part))
        return part


def test_never_reads_more_rows_than_it_may():
    queries, vectors = draw(4, 2, 4), draw(5, 100, 4)
    watched = Watched(vectors)
    # The annotation asks for an array; the checker is left out for this stand-in.
    search = getattr(stream_top_k, "__wrapped__", stream_top_k)
    _, ids = search(queries, watched, 5, rows_at_once=16)
    np.testing.assert_array_equal(ids, naive_top_k(queries, vectors, 5)[1])
    assert watched.most == 16


LARGE = """
import re, resource, sys
import numpy as np
from jaxembed.search import stream_top_k
rows, dim, queries = 600_000, 64, np.eye(2, 64, dtype=np.float32)
vectors = np.memmap(sys.argv[1], np.float32, "w+", shape=(rows, dim))  # zeros take no room on disk
vectors[7], vectors[rows // 2], vectors[rows - 1] = 1, 3, 2
vectors.flush()
vectors = np.memmap(sys.argv[1], np.float32, "r", shape=(rows, dim))
stream_top_k(queries, vectors[:8192], 3, rows_at_once=8192)  # compiles
# Of all but mapped files: the heap, and what the process maps for itself.
used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + vectors.nbytes // 4,) * 2)
try:
    np.ones((rows, dim), np.float32)
except MemoryError:
    print("too large")
scores, ids = stream_top_k(queries, vectors, 3, rows_at_once=8192)
print(ids[0].tolist(), scores[0].tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of mapped memory are Linux's")
def test_a_file_larger_than_the_memory_it_may_take_is_searched(tmp_path):
    # 154 MB, where 38 may be taken.
    command = [sys.executable, "-c", LARGE, str(tmp_path / "vectors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "too large\n[300000, 599999, 7] [3.0, 2.0, 1.0]\n", done.stderr


def test_equal_rows_of_several_parts_come_lowest_first():
    _, ids = stream_top_k(np.ones((1, 2)), np.ones((30, 2)), 30, rows_at_once=4)
    np.testing.assert_array_equal(ids, [np.arange(30)])


def test_bad_input_is_refused():
    vectors = draw(6, 20, 3)
    vectors[17, 1] = np.nan
    with pytest.raises(ValueError, match="Row 17 of the vectors"):
        stream_top_k(draw(7, 1, 3), vectors, 2, rows_at_once=8)
    with pytest.raises(ValueError, match="0 at once"):
        stream_top_k(draw(7, 1, 3), vectors, 2, rows_at_once=0)
    with pytest.raises(ValueError, match="where has shape"):
        stream_top_k(draw(7, 1, 3), vectors, 2, where=np.ones(3, bool))
    assert (np.asarray(stream_top_k(np.full((1, 3), np.nan), vectors[:5], 2)[1]) == -1).all()
