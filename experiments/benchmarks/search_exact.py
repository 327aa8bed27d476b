"""Exact search beside faiss's flat index: the same ids (bar 1) and queries per second (bar 2).

    python -m experiments.benchmarks.search_exact

Both run in this process, in turns, on all its cores; every ratio is of two neighbouring turns.
"""

import dataclasses
import time

import faiss
import jax
import numpy as np
import tyro

from experiments.benchmarks.record import record
from jaxembed.search import ExactIndex

METRICS = ("dot", "cosine", "euclidean")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of what is measured."""

    count: int = 100_000
    dim: int = 100
    k: int = 10
    rounds: int = 7
    threads: int = 2
    seed: int = 0


def main(config: Config) -> None:
    random = np.random.default_rng(config.seed)
    vectors = random.standard_normal((config.count, config.dim)).astype(np.float32)
    faiss.omp_set_num_threads(config.threads)
    same_ids(config, vectors, random)
    index, flat = ExactIndex.build(vectors), faiss.IndexFlatIP(config.dim)
    flat.add(vectors)
    for batch in (1, 64, 256, 1024):
        queries = random.standard_normal((batch, config.dim)).astype(np.float32)

        def ours(queries=queries):
            return jax.block_until_ready(index.search(queries, config.k))

        def theirs(queries=queries):
            return flat.search(queries, config.k)

        ours(), theirs()
        turns = [(seconds(ours), seconds(theirs)) for _ in range(config.rounds)]
        mine, peer = np.asarray(turns).T
        ratios = np.sort(peer / mine)
        row = {"bar": 2, "metric": "dot", "batch": batch, **dataclasses.asdict(config)}
        row["queries_per_second"] = round(batch / float(np.median(mine)), 1)
        row["faiss_queries_per_second"] = round(batch / float(np.median(peer)), 1)
        row["ratio_median"] = round(float(np.median(ratios)), 3)
        row["ratio_least"], row["ratio_most"] = (round(float(ratios[i]), 3) for i in (0, -1))
        record("search_exact", row)


def same_ids(config: Config, vectors: np.ndarray, random: np.random.Generator) -> None:
    """Compares ids with faiss's for each metric; a tie may go either way."""
    queries = random.standard_normal((256, config.dim)).astype(np.float32)
    for metric in METRICS:
        rows, asked = vectors, queries
        if metric == "cosine":
            rows, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, asked))
        flat = (faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP)(config.dim)
        flat.add(rows)
        their_scores, theirs = flat.search(asked, config.k)
        scores, ids = map(np.asarray, ExactIndex.build(vectors, metric=metric).search(queries, 10))
        if metric == "euclidean":
            their_scores = np.sqrt(np.maximum(their_scores, 0))
        differ = ids != theirs
        apart = np.abs(scores - their_scores)[differ] / np.abs(their_scores)[differ]
        row = {"bar": 1, "metric": metric, "places": int(ids.size), "other_ids": int(differ.sum())}
        row["largest_relative_gap_where_other"] = float(apart.max(initial=0.0))
        record("search_exact", row)


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
