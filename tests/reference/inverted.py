"""Naive searches over lists and codes, a vector at a time in float64."""

import numpy as np


def score(query, vector, metric):
    """Larger is nearer; for euclidean minus the distance."""
    query, vector = np.asarray(query, np.float64), np.asarray(vector, np.float64)
    if metric == "euclidean":
        return -np.sqrt(((query - vector) ** 2).sum())
    if metric == "cosine":
        norms = np.sqrt((query @ query) * (vector @ vector))
        return query @ vector / norms if norms > 0 else 0.0
    return query @ vector


def search_lists(queries, rows, lists, centroids, probes, k, metric, allowed=None):
    """Scores the rows of the `probes` nearest lists; gives scores and places, -inf and -1 missing.

    The centroids are ranked by product for "cosine" too: they are those of unit vectors.
    """
    scores = np.full((len(queries), k), -np.inf)
    places = np.full((len(queries), k), -1)
    by = "euclidean" if metric == "euclidean" else "dot"
    for number, query in enumerate(queries):
        nearness = [score(query, centroid, by) for centroid in centroids]
        probed = sorted(range(len(centroids)), key=lambda i: (-nearness[i], i))[:probes]
        found = [
            (-score(query, rows[i], metric), i)
            for i in range(len(rows))
            if lists[i] in probed and (allowed is None or allowed[i])
        ]
        for place, (negative, i) in enumerate(sorted(found)[:k]):
            scores[number, place], places[number, place] = -negative, i
    return scores, places


def encode_parts(rows, codebooks):
    """The nearest codeword of each part of each row, and the row that the codes stand for."""
    parts, _, width = codebooks.shape
    wide = np.pad(rows, ((0, 0), (0, parts * width - rows.shape[1])))
    codes = np.zeros((len(rows), parts), int)
    decoded = np.zeros_like(wide)
    for row in range(len(rows)):
        for part in range(parts):
            inside = slice(part * width, (part + 1) * width)
            distances = ((wide[row, inside] - codebooks[part]) ** 2).sum(axis=1)
            codes[row, part] = np.argmin(distances)
            decoded[row, inside] = codebooks[part, codes[row, part]]
    return codes, decoded[:, : rows.shape[1]]
