"""Recall of LSHIndex for each candidate beside faiss IndexLSH, and comparisons of BallTreeIndex.

python -m experiments.benchmarks.search_hashing --vectors PATH.npz

Both hash into the same number of bits; a candidate is a vector that is scored with its original.
The tree is asked for the 10 nearest of 100,000 vectors of 10 dimensions.
"""

import argparse

import numpy as np

from experiments.benchmarks.record import record
from jaxembed.search import BallTreeIndex, ExactIndex, LSHIndex

METRICS = ("cosine", "dot", "euclidean")


def recall(found, expected):
    """Share of the expected ids among those found, mean of the queries."""
    pairs = zip(np.asarray(found).tolist(), np.asarray(expected).tolist(), strict=True)
    return round(float(np.mean([len({*row} & {*true}) / len(true) for row, true in pairs])), 4)


def compare_hashing(vectors, queries, bits, candidates):
    """Recall@10 by candidates, ours and faiss's (the better of its two kinds of threshold)."""
    import faiss

    for metric in METRICS:
        expected = ExactIndex.build(vectors, metric=metric).search(queries, 10)[1]
        rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = rows if metric == "cosine" else vectors
        for length in bits:
            index = LSHIndex.build(vectors, metric=metric, bits=length, tables=1)
            lists = []
            for thresholds in (False, True):
                peer = faiss.IndexLSH(vectors.shape[1], length, True, thresholds)
                peer.train(rows)
                peer.add(rows)
                lists.append(peer.search(queries, max(candidates))[1])
            for count in candidates:
                found = index.search(queries, 10, rescore=count // 10)[1]
                ours, theirs = (
                    recall(found, expected),
                    [recall(i[:, :count], expected) for i in lists],
                )
                row = {"what": "hashing", "metric": metric, "bits": length, "candidates": count}
                record("search_hashing", row | {"recall": ours, "faiss": max(theirs)})


def count_comparisons(name, vectors, queries):
    """How many times fewer comparisons than brute force, and whether all ids are the exact ones."""
    for metric in METRICS:
        index = BallTreeIndex.build(vectors, metric=metric)
        (_, found), counted = index.search_counting(queries, 10)
        expected = ExactIndex.build(vectors, metric=metric).search(queries, 10)[1]
        fewer = len(vectors) / float(np.mean(counted))
        row = {"what": "tree", "vectors": name, "metric": metric, "is_flat": index.is_flat}
        row |= {"fewer": round(fewer, 2), "equal": float(np.mean(found == expected))}
        record("search_hashing", row)


def main() -> None:
    """Runs both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", required=True, help=".npz with an array `vectors`")
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with np.load(arguments.vectors) as file:
        vectors = file["vectors"].astype(np.float32)
    vectors = vectors[rng.permutation(len(vectors))]
    queries, vectors = vectors[: arguments.queries], vectors[arguments.queries :]
    for name, draw in (("gaussian", rng.standard_normal), ("uniform", rng.random)):
        count_comparisons(name, *(draw((n, 10), np.float32) for n in (100_000, 64)))
    axes = np.linalg.svd(vectors[:20_000] - vectors.mean(axis=0), full_matrices=False)[2][:10].T
    count_comparisons("10 principal axes", vectors @ axes, queries[:64] @ axes)
    compare_hashing(vectors, queries, (64, 256), (10, 50, 100, 500))


if __name__ == "__main__":
    main()
