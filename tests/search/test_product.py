import os

import jax.numpy as jnp
import numpy as np
import pytest
from reference.inverted import encode_parts, search_lists

from jaxembed.search import IVFPQIndex, PQIndex
from jaxembed.search.codebooks import (
    decode,
    encode,
    pack_codes,
    train_codebooks,
    train_rotation,
    unpack_codes,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def correlated(seed, size, dim):
    """Rows in which the first half of the dimensions nearly repeats itself in the second."""
    half = draw(seed, size, dim // 2)
    scales = np.linspace(3.0, 0.1, dim // 2, dtype=np.float32)
    return np.concatenate([half * scales, half * scales + 0.1 * draw(seed + 1, size, dim // 2)], 1)


@pytest.mark.parametrize(
    ("dim", "parts", "words"), [(8, 4, 16), (7, 3, 16), (3, 3, 256), (20, 2, 16)]
)
def test_codes_are_the_nearest_codewords(dim, parts, words):
    rows, books = draw(0, 30, dim), draw(1, parts, words, -(-dim // parts))
    codes = encode(jnp.asarray(rows), jnp.asarray(books))
    _, nearest = encode_parts(rows, books)
    wide = np.pad(rows, ((0, 0), (0, parts * books.shape[2] - dim)))
    words = np.stack([books[part][np.asarray(codes)[:, part]] for part in range(parts)], axis=1)
    decoded = words.reshape(len(rows), -1)[:, :dim]
    np.testing.assert_array_equal(decode(codes, jnp.asarray(books), dim), decoded)
    # Two codewords may be equally near within rounding: distances are compared, not codes.
    found, best = ((wide[:, :dim] - x) ** 2 for x in (decoded, nearest))
    np.testing.assert_allclose(found.sum(axis=1), best.sum(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [2, 10])
def test_of_equally_near_codewords_the_first_is_taken(width):
    words = draw(13, 8, width)
    books = jnp.asarray(np.stack([np.concatenate([words, words])] * 2))
    rows = jnp.asarray(draw(14, 2_100, 2 * width))
    # Older fusions round equal distances differently; `tests/conftest.py` asks for them.
    is_older = "fusion_emitters=false" in os.environ.get("XLA_FLAGS", "")
    options = {"xla_cpu_use_fusion_emitters": True} if is_older else None
    codes = encode.lower(rows, books).compile(options)(rows, books)
    assert len(np.unique(codes)) == 8
    assert int(codes.max()) < 8


def test_codes_of_narrow_parts_are_exact_far_from_zero():
    rows, books = draw(15, 200, 6) + 300.0, draw(16, 3, 16, 2) + 300.0
    differences = rows.reshape(200, 3, 1, 2).astype(np.float64) - books[None]
    expected = np.argmin((differences**2).sum(axis=3), axis=2)
    np.testing.assert_array_equal(encode(jnp.asarray(rows), jnp.asarray(books)), expected)


@pytest.mark.parametrize("parts", [1, 4, 5])
def test_packed_codes_come_back(parts):
    codes = np.random.default_rng(2).integers(0, 16, (9, parts)).astype(np.uint8)
    packed = pack_codes(codes, 4)
    assert packed.shape == (9, -(-parts // 2))
    books = jnp.zeros((parts, 16, 1))
    np.testing.assert_array_equal(unpack_codes(jnp.asarray(packed), books), codes)


def test_codebooks_of_as_many_vectors_are_exact(key):
    rows = jnp.asarray(draw(3, 16, 6))
    books = train_codebooks(rows, 2, bits=4, key=key)
    np.testing.assert_allclose(decode(encode(rows, books), books, 6), rows, atol=1e-5)


def test_the_rotation_is_orthogonal_and_helps_correlated_vectors(key):
    rows = jnp.asarray(correlated(4, 800, 8))
    rotation = train_rotation(rows, 4, bits=4, key=key, iterations=8)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-5)
    errors = []
    for some in (rows, rows @ rotation):
        books = train_codebooks(some, 4, bits=4, key=key)
        errors.append(float(jnp.sum((decode(encode(some, books), books, 8) - some) ** 2)))
    # Half of the variance is said twice, so that turned codes spend their bits on half as much.
    assert errors[1] < 0.6 * errors[0]


SETTINGS = [
    (PQIndex, "dot", {"parts": 4}),
    (PQIndex, "euclidean", {"parts": 3, "bits": 4, "rotation": "opq"}),
    (IVFPQIndex, "cosine", {"parts": 4, "bits": 4, "lists": 12}),
    (IVFPQIndex, "euclidean", {"parts": 4, "lists": 12}),
]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: f"{s[0].__name__}-{s[1]}")
def built(request):
    cls, metric, options = request.param
    rows = draw(5, 400, 8) + 1.0
    ids = np.random.default_rng(6).permutation(2_000)[:400]
    return cls.build(rows, metric=metric, ids=ids, iterations=4, **options), rows


def check(index, queries, k):
    """A search scores the decoded vectors of the probed lists."""
    options = {}
    lists, centroids, probes = np.zeros(index.size, int), np.zeros((1, 8)), 1
    if isinstance(index, IVFPQIndex):
        options = {"probes": 5}
        lists, centroids, probes = index.assignments(), np.asarray(index.centroids), 5
        centroids = centroids + np.asarray(index.centre)
    given = queries
    if index.metric == "cosine":
        given = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    metric = "euclidean" if index.metric == "euclidean" else "dot"
    expected, _ = search_lists(given, index.rows(), lists, centroids, probes, k, metric)
    scores, ids = index.search(jnp.asarray(queries), k, **options)
    scores = np.asarray(scores)
    # Vectors of the same codes score the same, in any order: scores are compared, not ids.
    np.testing.assert_allclose(-scores if metric == "euclidean" else scores, expected, atol=3e-5)
    places = {int(i): row for i, row in zip(np.asarray(index.ids), index.rows(), strict=True)}
    for query, row, found in zip(given, scores, np.asarray(ids), strict=True):
        assert len(set(found.tolist())) == k
        vectors = np.stack([places[int(i)] for i in found])
        if metric == "euclidean":
            again = np.sqrt(((vectors - query) ** 2).sum(axis=1))
        else:
            again = vectors @ query
        np.testing.assert_allclose(row, again, atol=3e-5)


def test_equals_scoring_the_decoded_vectors(built):
    check(built[0], draw(7, 6, 8), 9)


def test_decoded_vectors_are_near_the_vectors(built):
    index, rows = built
    wanted = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) if index.metric == "cosine" else rows
    )
    error = ((index.rows() - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert error < 0.35


def test_add_and_remove_keep_the_codes(built):
    index, _ = built
    ids = np.asarray(index.ids)
    added = draw(8, 20, 8)
    changed = index.add(added, ids=np.arange(5_000, 5_020)).remove(ids[:50])
    np.testing.assert_array_equal(changed.packed()[:-20], index.packed()[50:])
    check(changed, draw(9, 4, 8), 5)


@pytest.mark.parametrize(("cls", "size"), [(PQIndex, 3), (IVFPQIndex, 1)])
def test_few_vectors_of_an_odd_dimension(cls, size):
    rows = draw(11, size, 5)
    _, ids = cls.build(rows, metric="euclidean", parts=2).search(rows, size + 1)
    # With a codeword for each vector every vector is its own nearest.
    np.testing.assert_array_equal(np.asarray(ids)[:, 0], np.arange(size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 9}, "parts is 9"),
        ({"bits": 6}, "bits is 6"),
        ({"codebooks": np.ones((2, 16, 3))}, "codebooks have shape"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PQIndex.build(draw(12, 10, 8), **options)
