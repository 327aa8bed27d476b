import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed.search.hashing import (
    LSHIndex,
    collision_probability,
    gaussian_directions,
    hamming_distances,
    orthogonal_directions,
    sign_codes,
)

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


def pairs_at(angle, count):
    """Pairs of vectors at an angle."""
    first = draw(3, count, DIM)
    second = draw(4, count, DIM)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second -= np.sum(first * second, axis=1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first, 7 * (np.cos(angle) * first + np.sin(angle) * second)  # lengths do not matter


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.0])
def test_bits_collide_as_theory_says(angle, key):
    first, second = pairs_at(angle, 300)
    bits = 96
    for make in (gaussian_directions, orthogonal_directions):
        directions = make(key, bits, DIM)
        codes = [sign_codes(jnp.asarray(rows), directions) for rows in (first, second)]
        rate = 1 - np.asarray(hamming_distances(*codes)).mean() / bits
        expected = float(collision_probability(jnp.cos(jnp.float32(angle))))
        assert expected == pytest.approx(1 - angle / np.pi, abs=1e-5)
        # Pairs and directions are shared: as many independent trials as there are directions.
        assert abs(rate - expected) < 3 * np.sqrt(expected * (1 - expected) / bits)


@pytest.mark.parametrize("angle", [0.3, 0.8])
def test_tables_collide_as_theory_says(angle, key):
    first, second = pairs_at(angle, 1)
    bits, tables, trials = 8, 3, 1500
    directions = gaussian_directions(key, trials * tables * bits, DIM)
    codes = [np.asarray(sign_codes(jnp.asarray(rows), directions)) for rows in (first, second)]
    same = np.unpackbits(~(codes[0] ^ codes[1]).view(np.uint8), bitorder="little")
    collides = same.reshape(trials, tables, bits).all(axis=2).any(axis=1)
    expected = float(collision_probability(np.cos(angle), bits=bits, tables=tables))
    assert expected == pytest.approx(1 - (1 - (1 - angle / np.pi) ** bits) ** tables, abs=1e-5)
    assert abs(collides.mean() - expected) < 3 * np.sqrt(expected * (1 - expected) / trials)


def test_codes_are_packed_signs(key):
    vectors, directions = draw(5, 9, DIM), np.asarray(orthogonal_directions(key, 64, DIM))
    expected = np.zeros((9, 2), np.uint32)
    for row in range(9):
        for bit in range(64):
            if directions[bit] @ vectors[row] >= 0:
                expected[row, bit // 32] |= np.uint32(1 << bit % 32)
    codes = sign_codes(jnp.asarray(vectors), jnp.asarray(directions))
    np.testing.assert_array_equal(codes, expected)
    distances = hamming_distances(codes[:1].repeat(9, axis=0), codes)
    bits = [[int(word) >> bit & 1 for word in row for bit in range(32)] for row in expected]
    np.testing.assert_array_equal(distances, np.sum(np.asarray(bits[0]) != bits, axis=1))


def test_directions_are_orthogonal_in_blocks(key):
    directions = np.asarray(orthogonal_directions(key, 60, DIM))
    np.testing.assert_allclose(directions[:24] @ directions[:24].T, np.eye(24), atol=1e-5)
    np.testing.assert_allclose(directions[24:48] @ directions[24:48].T, np.eye(24), atol=1e-5)


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


@pytest.mark.parametrize("metric", METRICS)
def test_more_probes_find_more_until_all_is_found(metric, clustered):
    vectors, queries = clustered
    index = LSHIndex.build(vectors, metric=metric, tables=4, bucket_bits=4)
    expected = naive_top_k(queries, vectors, 5, metric)[1]
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
    with pytest.raises(ValueError, match="40 directions"):
        sign_codes(jnp.ones((1, 2)), jnp.ones((40, 2)))


def test_lowers_for_every_platform(clustered):
    vectors, queries = clustered
    index = LSHIndex.build(vectors)
    platforms = ("cpu", "cuda", "tpu")
    for options in ({}, {"probes": 8, "candidates": 99}):
        search = jax.jit(functools.partial(LSHIndex.search, k=3, **options))
        assert jax.export.export(search, platforms=platforms)(index, queries).platforms == platforms
