import gzip
import json

import numpy as np

from experiments.search import SWEEPS, Config, main, read_vectors


def test_smoke_run_measures_every_index_and_draws(tmp_path, capsys):
    vectors = np.random.default_rng(0).standard_normal((90, 8)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    out = tmp_path / "out"
    assert main(Config(workdir=out, data=tmp_path / "vectors.npy", smoke=True)) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["index"] for row in rows} >= set(SWEEPS)
    assert rows[0]["recall"] == 1
    assert all(0 <= row["recall"] <= 1 and row["queries_per_second"] > 0 for row in rows)
    table = (out / "table.md").read_text()
    assert all(name in table for name in SWEEPS)
    assert (out / "figures" / "search.png").stat().st_size > 10_000


def test_vectors_are_read_from_each_kind_of_file(tmp_path):
    vectors = np.arange(24).reshape(2, 12)
    np.savez(tmp_path / "a.npz", vectors=vectors)
    header = bytes([0, 0, 8, 3]) + np.asarray([2, 3, 4], ">u4").tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + vectors.astype(np.uint8).tobytes()))
    np.save(tmp_path / "a.npy", vectors)
    for name in ("a.npz", "a.gz", "a.npy"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name), vectors)
