"""Recall@10 against queries per second of every index, with faiss beside them where installed.

python -m experiments.search --workdir runs/search
python -m experiments.search --data PATH --metric euclidean --workdir runs/search-images

`--data` takes a run of word vectors, a .npy file, a .npz file with an array `vectors`, or an idx
file of images (.gz). Writes results.json, table.md and figures/search.png. It trains nothing, so
it has no recipe. Rates are of one batch after compilation, the best of three; they depend on the
machine.
"""

import dataclasses
import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from jaxembed import search
from jaxembed.environment import describe_environment
from jaxembed.metrics import recall_at_k
from jaxembed.run import load_run

# Build options, then search options to sweep.
SWEEPS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "ExactIndex": ({}, [{}]),
    "IVFIndex": ({}, [{}, *({"probes": probes} for probes in (1, 4, 16, 64))]),
    "IVFPQIndex": ({}, [{}, *({"probes": probes} for probes in (4, 16, 64))]),
    "PQIndex": ({}, [{}]),
    "ScannIndex": ({}, [{}, *({"probes": probes} for probes in (1, 4, 16, 64))]),
    "Int8Index": ({}, [{}]),
    "Int4Index": ({}, [{}]),
    "BinaryIndex": ({}, [{}]),
    "RabitqIndex": ({}, [{}]),
    "LSHIndex": ({}, [{"rescore": 4}, {}, {"probes": 64}, {"probes": 256}]),
    "BallTreeIndex": ({}, [{}]),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags."""

    workdir: Path
    """Where results go."""
    data: Path = Path("checkpoints/word2vec-docstrings")
    """Vectors to search."""
    metric: Literal["dot", "cosine", "euclidean"] = "cosine"
    queries: int = 512
    """Vectors held out as queries."""
    seed: int = 0
    smoke: bool = False
    """A run of seconds: 500 vectors of 16 dimensions at most."""


def read_vectors(path: Path) -> np.ndarray:
    """Reads one row a vector, from any of the kinds of file."""
    if path.is_dir():
        return np.asarray(load_run(path).vectors.matrix)
    if path.suffix == ".gz":
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape[0], -1)
    with np.load(path) if path.suffix == ".npz" else open(path, "rb") as file:
        return file["vectors"] if path.suffix == ".npz" else np.load(file)


def rate_of(find: Callable[[], Any], queries: int) -> float:
    """Queries per second, the best of three after a first call."""
    seconds = []
    jax.block_until_ready(find())
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(find())
        seconds.append(time.perf_counter() - started)
    return round(queries / min(seconds), 1)


def measure(vectors, queries, metric, seed) -> Iterator[dict[str, Any]]:
    """One row for each index and setting; the exact answer comes first."""
    expected = search.ExactIndex.build(vectors, metric=metric).search(queries, 10)[1]
    for name, (build, sweep) in SWEEPS.items():
        started = time.perf_counter()
        index = getattr(search, name).build(
            vectors, metric=metric, key=jax.random.key(seed), **build
        )
        jax.block_until_ready(index)
        seconds = round(time.perf_counter() - started, 2)
        for options in sweep:

            def find(index=index, options=options):
                return index.search(queries, 10, **options)

            recall = float(np.mean(recall_at_k(find()[1], expected)))
            row = {"index": name, "options": options, "recall": round(recall, 4)}
            row |= {"queries_per_second": rate_of(find, len(queries)), "build_seconds": seconds}
            yield row | {"bytes": index.memory_bytes() / len(vectors)}
    yield from measure_faiss(vectors, queries, metric, np.asarray(expected))


def measure_faiss(vectors, queries, metric, expected) -> Iterator[dict[str, Any]]:
    """The same for faiss's flat and inverted indices; nothing where it is not installed."""
    try:
        import faiss
    except ImportError:
        return
    if metric == "cosine":
        lengths = (np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, queries))
        vectors, queries = (
            rows / np.maximum(length, 1e-30)
            for rows, length in zip((vectors, queries), lengths, strict=True)
        )
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    lists = max(1, int(len(vectors) ** 0.5))
    for name, sweep in ((f"IVF{lists},Flat", (1, 4, 16, 64)), ("Flat", (0,))):
        index = faiss.index_factory(vectors.shape[1], name, kind)
        started = time.perf_counter()
        index.train(vectors)
        index.add(vectors)
        seconds = round(time.perf_counter() - started, 2)
        for probes in sweep:
            if probes:
                index.nprobe = probes

            def find(index=index):
                return index.search(queries, 10)

            recall = float(np.mean(recall_at_k(find()[1].astype(np.int32), expected)))
            row = {"index": f"faiss {name.replace(str(lists), '')}", "recall": round(recall, 4)}
            row |= {"options": {"probes": probes} if probes else {}, "build_seconds": seconds}
            row |= {"queries_per_second": rate_of(find, len(queries))}
            yield row | {"bytes": 4 * vectors.shape[1] + (8 if probes else 0)}


def draw_figure(rows, title, path):
    """One line an index, over the settings by recall."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, name in enumerate(dict.fromkeys(row["index"] for row in rows)):
        points = sorted((r["recall"], r["queries_per_second"]) for r in rows if r["index"] == name)
        style = {"linestyle": "--"} if name.startswith("faiss") else {}
        axes.plot(*zip(*points, strict=True), marker="osv^D*Xph8+x<"[number], label=name, **style)
    axes.set(xlabel="recall@10", ylabel="queries per second", yscale="log", title=title)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(config: Config) -> int:
    """Measures, then writes the table, the figure and the numbers."""
    vectors = read_vectors(config.data).astype(np.float32)
    vectors = vectors[np.random.default_rng(config.seed).permutation(len(vectors))]
    count = config.queries
    if config.smoke:
        vectors, count = np.ascontiguousarray(vectors[:500, :16]), 20
    if not 0 < count < len(vectors):
        raise ValueError(f"{count} queries of {len(vectors)} vectors: leave some to be found.")
    queries, vectors = vectors[:count], vectors[count:]
    title = f"{len(vectors):,} x {vectors.shape[1]}, {config.metric}, batch of {len(queries)}"
    rows = []
    for row in measure(vectors, queries, config.metric, config.seed):
        rows.append(row)
        print(json.dumps(row), flush=True)
    table = [f"{title}\n", "| index | options | recall@10 | queries/s | bytes a vector | build s |"]
    table += ["|---|---|---|---|---|---|"]
    for row in rows:
        options = ", ".join(f"{name} {value}" for name, value in row["options"].items())
        cells = (row["index"], options or "default", row["recall"], row["queries_per_second"])
        cells += (round(row["bytes"]), row["build_seconds"])
        table.append("| " + " | ".join(map(str, cells)) + " |")
    config.workdir.mkdir(parents=True, exist_ok=True)
    (config.workdir / "table.md").write_text("\n".join(table) + "\n")
    results = {"title": title, "rows": rows, "environment": describe_environment()}
    (config.workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw_figure(rows, title, config.workdir / "figures" / "search.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
