"""Scalar codes: recall@10 of float32's neighbours, bytes, and the estimator's error (bar 6).

    python -m experiments.benchmarks.search_scalar --glove PATH --sentences PATH

GloVe is an .npz with the array `vectors`; sentences are a folder of the STS and SICK sets, embedded
by MiniLM (384 dimensions) unless --embedded names an .npy of vectors. Queries are vectors that are
left out of the index.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro

from experiments.benchmarks.minilm import embed, read_sentences
from experiments.benchmarks.record import record
from jaxembed.metrics import recall_at_k
from jaxembed.search import BinaryIndex, ExactIndex, Int4Index, Int8Index, RabitqIndex

K = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the vectors are."""

    glove: str
    sentences: str
    embedded: str = ""
    queries: int = 500
    seed: int = 0


def main(config: Config) -> None:
    with np.load(config.glove) as file:
        glove = file["vectors"].astype(np.float32)
    if config.embedded and Path(config.embedded).exists():
        minilm = np.load(config.embedded)
    else:
        minilm = embed(read_sentences(config.sentences))
    for name, vectors in (("minilm sentences", minilm), ("glove-50", glove)):
        chosen = np.random.default_rng(config.seed).permutation(len(vectors))
        queries, rows = vectors[chosen[: config.queries]], vectors[chosen[config.queries :]]
        for metric in ("dot", "cosine", "euclidean"):
            compare(name, queries, rows, metric)
        estimator(name, queries[:20], rows[:200])


def compare(name: str, queries: np.ndarray, rows: np.ndarray, metric: str) -> None:
    """Recall of each kind of codes, alone and with four times as many rescored."""
    relevant = ExactIndex.build(rows, metric=metric).search(queries, K)[1]
    for cls in (Int8Index, Int4Index, BinaryIndex, RabitqIndex):
        bare = cls.build(rows, metric=metric, keep_vectors=False)
        kept = cls.build(rows, metric=metric, keep_vectors=True)
        row = {"bar": 6, "data": name, "vectors": len(rows), "dim": rows.shape[1]}
        row |= {"metric": metric, "kind": cls.__name__}
        found = bare.search(queries, K)[1]
        row["recall_at_10"] = round(float(recall_at_k(found, relevant).mean()), 4)
        found = kept.search(queries, K, rescore=4)[1]
        row["recall_at_10_rescored_4x"] = round(float(recall_at_k(found, relevant).mean()), 4)
        row["bytes_a_vector"] = round(bare.memory_bytes() / len(rows), 2)
        record("search_scalar", row)


def estimator(name: str, queries: np.ndarray, rows: np.ndarray, rotations: int = 100) -> None:
    """Bias of RaBitQ's estimate over random rotations, in standard errors of its mean."""
    truth, wrong, stated = queries @ rows.T, [], []
    for seed in range(rotations):
        index = RabitqIndex.build(rows, key=jax.random.key(seed))
        estimates, errors = map(np.asarray, index.estimate(queries))
        wrong.append(estimates - truth)
        stated.append(errors)
    wrong = np.asarray(wrong)
    # One mean a rotation: the pairs of one rotation are not independent.
    means = wrong.mean(axis=(1, 2), dtype=np.float64)
    pairs = wrong.mean(axis=0) / (wrong.std(axis=0, ddof=1) / np.sqrt(rotations))
    row = {"bar": 6, "data": name, "kind": "RabitqIndex.estimate", "rotations": rotations}
    row["bias_in_standard_errors"] = round(
        float(means.mean() / (means.std(ddof=1) / np.sqrt(rotations))), 3
    )
    row["pairs_within_3_standard_errors"] = round(float(np.mean(np.abs(pairs) < 3)), 4)
    row["error_over_stated"] = round(float(np.sqrt(np.mean((wrong / np.asarray(stated)) ** 2))), 3)
    record("search_scalar", row)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
