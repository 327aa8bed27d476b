"""Zero-shot classes: the mean over sentences, and the nearest class."""

import numpy as np
import pytest

from jaxembed.metrics import class_vectors, classify, zero_shot_accuracy

SENTENCES = {"a cat": (3.0, 0.0), "the cat": (0.0, 0.5), "a dog": (-1.0, 0.0), "the dog": (-2.0, 0)}


def encode(texts):
    return np.array([SENTENCES[text] for text in texts], np.float32)


def test_class_is_the_mean_of_its_unit_vectors():
    found = class_vectors(encode, ["cat", "dog"], ["a {}", "the {}"])
    np.testing.assert_allclose(found, [[0.5**0.5] * 2, [-1, 0]], atol=1e-6)


def test_nearest_class_is_found_and_counted():
    classes = class_vectors(encode, ["cat", "dog"], ["a {}", "the {}"])
    vectors = np.array([[1.0, 9.0], [-5.0, 1.0], [-0.1, -9.0]], np.float32)
    np.testing.assert_array_equal(classify(vectors, classes, 2), [[0, 1], [1, 0], [1, 0]])
    assert zero_shot_accuracy(vectors, classes, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert zero_shot_accuracy(vectors, classes, np.array([0, 1, 0]), k=2) == 1.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="needs one {}"):
        class_vectors(encode, ["cat"], ["a cat"])
    with pytest.raises(ValueError, match="0 names"):
        class_vectors(encode, [], ["a {}"])
    with pytest.raises(ValueError, match="give 1 to 2"):
        classify(np.zeros((1, 2), np.float32), np.ones((2, 2), np.float32), 3)
