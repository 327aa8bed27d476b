"""Analogies answered one at a time, in float64."""

import numpy as np


def answer_analogy(keys, matrix, question, method):
    """The key that answers (a, b, c), or None where no other key is left; casing is ignored."""
    unit = np.asarray(matrix, np.float64)
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, norms, out=np.zeros_like(unit), where=norms > 0)
    folded = [key.upper() for key in keys]
    a, b, c = (unit[folded.index(word.upper())] for word in question)
    best, best_score = None, -np.inf
    for key, row in zip(folded, unit, strict=True):
        if key in {word.upper() for word in question}:
            continue
        if method == "3CosAdd":
            score = row @ (b - a + c)
        else:
            score = (1 + row @ b) / 2 * (1 + row @ c) / 2 / ((1 + row @ a) / 2 + 1e-6)
        if score > best_score:
            best, best_score = key, score
    return best
