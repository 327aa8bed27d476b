"""How much the vectors of a word depend on the sentences that it stands in."""

import numpy as np
from jaxtyping import Float32


def mean_cosine(vectors: Float32[np.ndarray, "count width"]) -> float:
    """The mean cosine between different vectors, such as those of one word in many sentences.

    Of one word this is its self-similarity: 1 where context changes nothing. Of a sample of
    different words it is what cosines mean nothing below (the anisotropy of the space).

    Args:
        vectors: Two or more; one of length 0 has cosine 0 with all.

    Returns:
        From -1 to 1.

    Raises:
        ValueError: If there are less than two.

    Reference: Ethayarajh, 2019, https://arxiv.org/abs/1909.00512, definitions 1 and 4.
    """
    count = len(vectors)
    if count < 2:
        raise ValueError(f"{count} vectors have no pair to compare: give 2 or more.")
    # The sum over all pairs is that of the sum of unit vectors with itself.
    units = _units(vectors)
    total = float(np.sum(np.square(units.sum(axis=0))) - np.sum(np.square(units)))
    return total / (count * (count - 1))


def sense_accuracy(vectors: Float32[np.ndarray, "count width"], senses: list[str]) -> float:
    """The share of vectors whose nearest other one, by cosine, has the same sense.

    Args:
        vectors: Of one word, two or more.
        senses: What each stands for.

    Returns:
        From 0 to 1; chance is the mean share of one's own sense among the others.

    Raises:
        ValueError: If there are less than two, or not a sense for each.
    """
    if len(vectors) < 2 or len(vectors) != len(senses):
        raise ValueError(f"{len(vectors)} vectors and {len(senses)} senses: give 2 or more pairs.")
    units = _units(vectors)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    names = np.array(senses)
    return float(np.mean(names[cosines.argmax(axis=1)] == names))


def _units(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
