"""Top-k by scoring one pair at a time, in float64."""

import numpy as np


def exact_top_k(queries, vectors, k, metric="dot", exclude=None):
    """Scores and ids, best first, then lowest id first; (-inf, -1) where none is left."""
    all_scores, all_ids = [], []
    for row, query in enumerate(np.asarray(queries, np.float64)):
        banned = () if exclude is None else set(np.asarray(exclude[row]).tolist())
        scored = []
        for index, vector in enumerate(np.asarray(vectors, np.float64)):
            score = _score(query, vector, metric)
            if index not in banned and not np.isnan(score):
                scored.append((-score, index))
        scored = sorted(scored)[:k] + [(np.inf, -1)] * max(0, k - len(scored))
        all_scores.append([-score for score, _ in scored])
        all_ids.append([index for _, index in scored])
    return np.asarray(all_scores), np.asarray(all_ids)


def _score(query, vector, metric):
    if metric == "dot":
        return query @ vector
    if metric == "euclidean":
        return -np.sqrt(np.sum((query - vector) ** 2))
    norms = np.linalg.norm(query) * np.linalg.norm(vector)
    return 0.0 if norms == 0 else query @ vector / norms
