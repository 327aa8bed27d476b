"""Measures of context, against loops over pairs."""

import numpy as np
import pytest

from jaxembed.metrics.context import mean_cosine, sense_accuracy


def test_both_measures_equal_loops_over_pairs():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(9, 4)).astype(np.float32)
    senses = list("aabbabbca")

    def cosine(i, j):
        return vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])

    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(vectors) == pytest.approx(np.mean([cosine(*pair) for pair in pairs]))
    right = []
    for i in range(9):
        nearest = max((j for j in range(9) if j != i), key=lambda j: cosine(i, j))
        right.append(senses[nearest] == senses[i])
    assert sense_accuracy(vectors, senses) == pytest.approx(np.mean(right))


def test_equal_vectors_have_cosine_1_and_one_of_zeros_has_0():
    assert mean_cosine(np.full((3, 5), 2.0, np.float32)) == pytest.approx(1.0)
    assert mean_cosine(np.array([[1, 0], [0, 0]], np.float32)) == 0.0


def test_too_few_are_refused():
    one = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match="1 vectors have no pair"):
        mean_cosine(one)
    with pytest.raises(ValueError, match="2 vectors and 1 senses"):
        sense_accuracy(np.ones((2, 2), np.float32), ["a"])
