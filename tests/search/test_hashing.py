import numpy as np
import pytest
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed.search import LSHIndex

METRICS = ["dot", "cosine", "euclidean"]
DIM = 24


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def recall(found, expected):
    return np.mean(
        [
            len({*row} & {*true}) / len(true)
            for row, true in zip(found.tolist(), expected.tolist(), strict=True)
        ]
    )


@pytest.fixture(scope="module")
def clustered():
    """600 vectors around 40 centres and 20 queries near some of them."""
    centres = 3 * draw(0, 40, DIM)
    vectors = centres[np.arange(600) % 40] + draw(1, 600, DIM)
    return vectors + 1, centres[:20] + draw(2, 20, DIM) + 1


@pytest.mark.parametrize("metric", METRICS)
def test_default_search_finds_nearly_all(metric, clustered):
    vectors, queries = clustered
    index = LSHIndex.build(vectors, metric=metric)
    scores, found = index.search(queries, 10)
    expected_scores, expected = naive_top_k(queries, vectors, 10, metric)
    assert recall(found, expected) >= 0.95
    # What is found is scored with the vectors themselves.
    same = np.asarray(found) == expected
    sign = -1 if metric == "euclidean" else 1
    np.testing.assert_allclose(sign * np.asarray(scores)[same], expected_scores[same], rtol=1e-5)
    _, everything = index.search(queries, 10, rescore=60)
    np.testing.assert_array_equal(everything, expected)


def test_buckets_hold_the_vectors_of_their_key(clustered):
    vectors, _ = clustered
    index = LSHIndex.build(vectors, metric="cosine", tables=3, bucket_bits=4)
    codes, order, starts = (np.asarray(part) for part in (index.codes, index.order, index.starts))
    for table in range(3):
        assert sorted(order[table]) == list(range(600))
        for bucket in range(16):
            members = order[table, starts[table, bucket] : starts[table, bucket + 1]]
            assert members.tolist() == np.flatnonzero(codes[:, table] % 16 == bucket).tolist()


def test_more_probes_find_more_until_all_is_found(clustered):
    vectors, queries = clustered
    index = LSHIndex.build(vectors, metric="euclidean", tables=4, bucket_bits=4)
    expected = naive_top_k(queries, vectors, 5, "euclidean")[1]
    recalls = []
    for probes in (1, 8, 64):
        _, found = index.search(queries, 5, probes=probes, candidates=599, rescore=120)
        recalls.append(recall(found, expected))
        assert all(len({*row} - {-1}) == sum(id >= 0 for id in row) for row in found.tolist())
    # 64 probes open all 16 buckets of each table; 599 candidates hold all tables' nearest ones.
    assert recalls[0] < recalls[1] <= recalls[2] + 0.02
    assert recalls[2] >= 0.95


def test_probing_opens_the_own_bucket_first_and_counts(clustered):
    vectors, _ = clustered
    index = LSHIndex.build(vectors, metric="cosine", tables=1, bucket_bits=5)
    scores, found = index.search(vectors[:50], 1, probes=1, candidates=599)
    np.testing.assert_array_equal(found[:, 0], np.arange(50))
    found, dropped = index.probe_statistics(vectors[:50], probes=1, candidates=10)
    keys = np.asarray(index.codes)[:, 0] % 32
    sizes = np.bincount(keys, minlength=32)[keys[:50]]
    np.testing.assert_array_equal(found, sizes)
    np.testing.assert_array_equal(dropped, np.maximum(sizes - 10, 0))


def test_where_is_applied_to_all_codes(clustered):
    vectors, queries = clustered
    index = LSHIndex.build(vectors, metric="cosine", bucket_bits=6)
    mask = np.arange(600) % 50 == 7
    _, found = index.search(queries, 12, where=mask, probes=1, candidates=5)
    assert (np.sort(found, axis=1) == np.flatnonzero(mask)).all()


def test_wrong_options_are_refused(clustered):
    vectors, queries = clustered
    for options, message in (
        ({"bits": 40}, "bits is 40: wanted a multiple of 32"),
        ({"bits": 64}, "tables is 8: wanted 1 to 2"),
        ({"bucket_bits": 21}, "bucket_bits is 21"),
    ):
        with pytest.raises(ValueError, match=message):
            LSHIndex.build(vectors, **options)
    index = LSHIndex.build(vectors)
    with pytest.raises(ValueError, match="probes is 0"):
        index.search(queries, 1, probes=0)
