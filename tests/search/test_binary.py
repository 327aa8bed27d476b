import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.metrics import recall_at_k
from jaxembed.search import BinaryIndex, ExactIndex, RabitqIndex
from jaxembed.search.rabitq import encode, random_rotation

METRICS = ["dot", "cosine", "euclidean"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_search_by_bits_equals_counting(metric):
    vectors, queries = draw(2, 70, 37), draw(3, 4, 37)
    index = BinaryIndex.build(vectors, metric=metric, keep_vectors=False)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    if metric == "dot":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        queries = queries * np.linalg.norm(vectors, axis=1).mean()
    centre = np.asarray(index.centre)
    differ = ((queries > centre)[:, None] != (vectors > centre)[None]).sum(axis=2)
    expected = np.argsort(differ, axis=1, kind="stable")[:, :20]
    scores, ids = index.search(queries, 20)
    np.testing.assert_array_equal(ids, expected)
    differ = np.take_along_axis(differ, expected, axis=1)
    like = np.sqrt(differ) if metric == "euclidean" else 1 - 2 * differ / 37
    np.testing.assert_allclose(scores, like, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("cls", [BinaryIndex, RabitqIndex])
def test_rescoring_everything_is_exact(cls, metric):
    vectors, queries, ids = draw(4, 40, 8), draw(5, 5, 8), np.arange(40)[::-1]
    index = cls.build(vectors, metric=metric, ids=ids)
    exact = ExactIndex.build(vectors, metric=metric, ids=ids)
    for where in ((4, 30), None)[: 2 if metric == "dot" else 1]:
        scores, found = index.search(queries, 10, where=where, rescore=4)
        expected_scores, expected = exact.search(queries, 10, where=where)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="rescore is 0"):
        index.search(queries, 1, rescore=0)


@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_candidates_do_not_depend_on_the_length_of_a_query(metric):
    vectors, queries = draw(16, 60, 40) + 0.5, draw(17, 6, 40)
    index = BinaryIndex.build(vectors, metric=metric, keep_vectors=False)
    ids = [index.search(scale * queries, 20)[1] for scale in (1, 2, 1e-3)]
    np.testing.assert_array_equal(ids[1], ids[0])
    np.testing.assert_array_equal(ids[2], ids[0])


def test_codes_are_taken_around_the_centre():
    vectors, queries = draw(6, 1500, 96), draw(7, 40, 96)
    relevant = ExactIndex.build(vectors, metric="euclidean").search(queries, 10)[1]
    recalls = []
    for cls in (BinaryIndex, RabitqIndex):
        for offset in (0, 5):  # so far out that signs alone would all be the same
            index = cls.build(vectors + offset, metric="euclidean")
            found = index.search(queries + offset, 10)[1]
            recalls.append(recall_at_k(found, relevant).mean())
    # Shifting all changes roundings only, and 40 of 1500 at random would hold .027.
    np.testing.assert_allclose(recalls[::2], recalls[1::2], atol=0.01)
    assert recalls[2] > recalls[0] + 0.2 > 0.4


@pytest.mark.parametrize("metric", METRICS)
def test_the_estimate_is_unbiased(metric):
    vectors, query = draw(8, 20, 24) + 1, draw(9, 1, 24)
    index = RabitqIndex.build(vectors, metric=metric)
    rows = vectors
    if metric == "cosine":
        rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        query = query / np.linalg.norm(query)
    truth = ((rows - query) ** 2).sum(axis=1) if metric == "euclidean" else rows @ query[0]

    def estimate(key):
        rotation = random_rotation(key, 24)
        bits, lengths, alignments = encode(jnp.asarray(rows), index.centre, rotation)
        turned = dataclasses.replace(
            index, bits=bits, lengths=lengths, alignments=alignments, rotation=rotation
        )
        return turned.estimate(query)

    count = 1000
    estimates, errors = jax.jit(jax.vmap(estimate))(jax.vmap(jax.random.key)(jnp.arange(count)))
    wrong = np.asarray(estimates)[:, 0] - truth
    biases = np.abs(wrong.mean(axis=0)) / (wrong.std(axis=0, ddof=1) / np.sqrt(count))
    assert (biases < 3).all()
    spread = np.sqrt(np.mean((wrong / np.asarray(errors)[:, 0]) ** 2))
    assert 0.8 < spread < 1.05  # the stated errors are upper ones


def test_the_error_falls_with_the_root_of_the_dimension():
    errors = []
    for dim in (16, 256):
        vectors = draw(10, 200, dim)
        index = RabitqIndex.build(vectors, metric="cosine")
        estimates, _ = index.estimate(draw(11, 30, dim))
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = draw(11, 30, dim)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        errors.append((np.asarray(estimates) - queries @ units.T).std())
    assert 3.5 < errors[0] / errors[1] < 4.6  # sqrt(256 / 16) is 4


def test_bytes_are_as_promised():
    vectors = draw(12, 50, 70)
    assert BinaryIndex.build(vectors, keep_vectors=False).memory_bytes() == 50 * (12 + 4) + 284
    rabitq = RabitqIndex.build(vectors, keep_vectors=False).memory_bytes()
    assert rabitq == 50 * (12 + 4 + 8) + 280 + 4 * 70 * 70


@pytest.mark.parametrize("cls", [BinaryIndex, RabitqIndex])
def test_constant_data_and_one_vector(cls):
    constant = np.full((5, 3), 7.5, np.float32)
    metric = "euclidean" if cls is BinaryIndex else "cosine"
    np.testing.assert_array_equal(
        cls.build(constant, metric=metric).search(constant[:1], 6)[1], [[0, 1, 2, 3, 4, -1]]
    )
    scores, _ = cls.build(draw(13, 1, 2), keep_vectors=False).search(draw(14, 1, 2), 1)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("cls", [BinaryIndex, RabitqIndex])
@pytest.mark.parametrize("keep_vectors", [True, False])
def test_codes_of_added_vectors_are_those_of_a_build(cls, keep_vectors):
    vectors = draw(15, 30, 5)
    index = cls.build(vectors, keep_vectors=keep_vectors)
    changed = index.remove([28, 29]).add(vectors[28:])
    np.testing.assert_array_equal(changed.bits, index.bits)
    np.testing.assert_array_equal(changed.search(vectors, 5)[1], index.search(vectors, 5)[1])
