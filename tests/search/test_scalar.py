import numpy as np
import pytest

from jaxembed.metrics import recall_at_k
from jaxembed.search import ExactIndex, Int4Index, Int8Index
from jaxembed.search.scalar import calibrate, quantize

METRICS = ["dot", "cosine", "euclidean"]
CLASSES = [Int8Index, Int4Index]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("dim", [6, 7])
@pytest.mark.parametrize("scaling", ["row", "dimension"])
def test_decoded_numbers_are_the_nearest_codes(cls, dim, scaling):
    vectors = draw(0, 90, dim)
    vectors[3, 2] = 40.0  # so far out that a range a dimension clips it
    index = cls.build(vectors, scaling=scaling)
    scale, offset = np.asarray(index.scale), np.asarray(index.offset)
    steps = np.ones(90) if scaling == "dimension" else np.asarray(index.steps)
    lowest = -128 if cls is Int8Index else -8
    codes = np.arange(lowest, -lowest)[None, :, None]
    grid = offset + scale * steps[:, None, None] * codes  # [90, levels, dim]
    nearest = np.abs(vectors[:, None, :] - grid).argmin(axis=1)
    decoded = np.take_along_axis(grid, nearest[:, None], axis=1)[:, 0]
    # Two neighbours may be equally near.
    np.testing.assert_allclose(
        np.abs(index.decode() - vectors), np.abs(decoded - vectors), atol=1e-5
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("cls", CLASSES)
def test_search_equals_exact_search_of_decoded_vectors(cls, metric):
    vectors, queries = draw(1, 80, 9) + 3, draw(2, 5, 9) + 3
    ids = np.arange(80)[::-1]
    index = cls.build(vectors, metric=metric, ids=ids)
    # The decoded vectors of a cosine index are not quite of length 1.
    like = ExactIndex.build(index.decode(), metric="dot" if metric == "cosine" else metric, ids=ids)
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores, found = index.search(queries, 10, where=(5, 70))
    expected_scores, expected = like.search(queries, 10, where=(5, 70))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_rescoring_everything_is_exact(metric):
    vectors, queries = draw(3, 40, 8), draw(4, 5, 8)
    index = Int4Index.build(vectors, metric=metric, keep_vectors=True)
    exact = ExactIndex.build(vectors, metric=metric)
    scores, ids = index.search(queries, 10, rescore=4)
    np.testing.assert_array_equal(ids, exact.search(queries, 10)[1])
    np.testing.assert_allclose(scores, exact.search(queries, 10)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="rescore is 0"):
        index.search(queries, 1, rescore=0)


@pytest.mark.parametrize(("cls", "least"), [(Int8Index, 0.985), (Int4Index, 0.8)])
def test_recall(cls, least):
    vectors, queries = draw(5, 3000, 32), draw(6, 50, 32)
    relevant = ExactIndex.build(vectors).search(queries, 10)[1]
    found = cls.build(vectors).search(queries, 10)[1]
    assert recall_at_k(found, relevant).mean() >= least


@pytest.mark.parametrize("cls", CLASSES)
def test_error_bars_are_right(cls):
    vectors, queries = draw(7, 2000, 24), draw(8, 20, 24)
    index = cls.build(vectors)
    errors = (queries @ (np.asarray(index.decode()) - vectors).T) / np.asarray(
        index.score_error(queries)
    )[:, None]
    # 40,000 errors, of which those of one query are all but independent.
    assert 0.95 < errors.std() < 1.05
    euclidean = cls.build(vectors, metric="euclidean")
    lengths = np.linalg.norm(np.asarray(euclidean.decode()) - vectors, axis=1)
    np.testing.assert_allclose(
        euclidean.score_error(queries), np.sqrt(np.mean(lengths**2)), rtol=1e-4
    )


@pytest.mark.parametrize(("cls", "row_bytes"), [(Int8Index, 33), (Int4Index, 17)])
def test_bytes_are_as_promised(cls, row_bytes):
    by_row = cls.build(draw(9, 50, 33))
    assert by_row.memory_bytes() == 50 * (row_bytes + 4 + 4) + 3 * 33 * 4
    by_dimension = cls.build(draw(9, 50, 33), scaling="dimension")
    assert by_dimension.memory_bytes() == 50 * (row_bytes + 4) + 3 * 33 * 4


def test_a_step_a_vector_keeps_the_order_of_short_vectors():
    # Lengths from 1 to 1000, as those of word vectors vary, only more.
    vectors = draw(16, 1000, 12) * np.geomspace(1, 1000, 1000, dtype=np.float32)[:, None]
    queries = vectors[:30] + 0.1 * draw(17, 30, 12)
    relevant = ExactIndex.build(vectors, metric="euclidean").search(queries, 5)[1]
    recalls = []
    for scaling in ("dimension", "row"):
        index = Int8Index.build(vectors - 1, metric="euclidean", scaling=scaling)
        recalls.append(recall_at_k(index.search(queries - 1, 5)[1], relevant).mean())
    assert recalls[1] > recalls[0] + 0.2 and recalls[1] > 0.9


@pytest.mark.parametrize("cls", CLASSES)
def test_constant_and_outlying_data(cls):
    constant = np.full((5, 3), 7.5, np.float32)
    index = cls.build(constant, metric="euclidean")
    np.testing.assert_array_equal(index.decode(), constant)
    np.testing.assert_array_equal(index.search(constant[:1], 5)[0], np.zeros((1, 5)))
    one = cls.build(draw(10, 1, 3))
    np.testing.assert_array_equal(one.search(draw(11, 1, 3), 2)[1], [[0, -1]])


def test_clipping_beats_the_full_range():
    sample = draw(12, 5000, 4)
    sample[0] = 9.0  # one far number in each dimension
    scale, offset = calibrate(sample, levels=16, lowest=0)
    full = np.ptp(sample, axis=0) / 15

    def error(scale, offset):
        codes = quantize(sample, scale, offset, lowest=0, highest=15)
        return np.mean((offset + scale * codes - sample) ** 2)

    assert error(scale, offset) < 0.8 * error(full, sample.min(axis=0))


@pytest.mark.parametrize("cls", CLASSES)
def test_codes_of_added_vectors_are_those_of_a_build(cls):
    vectors = draw(13, 30, 5)
    index = cls.build(vectors, keep_vectors=True)
    changed = index.remove([3, 4]).add(vectors[3:5], ids=[3, 4])
    np.testing.assert_array_equal(changed.codes[-2:], index.codes[3:5])
    np.testing.assert_array_equal(changed.search(vectors, 5)[1], index.search(vectors, 5)[1])
