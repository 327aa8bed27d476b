import math
from collections import Counter

import numpy as np
import pytest

from jaxembed.metrics import BM25, best_rank, rank, split_words

DOCUMENTS = [
    "the cat sat on the mat",
    "the dog sat",
    "cats and dogs",
    "",
    "a mat, a mat, a mat: the cat's",
]
QUERIES = ["cat mat", "the the dog", "bird", ""]


def naive_score(query, document, documents, k1, b):
    words = [split_words(text) for text in documents]
    mean = sum(map(len, words)) / len(words)
    counts, total = Counter(split_words(document)), 0.0
    for word in split_words(query):
        holding = sum(word in other for other in words)
        idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
        norm = k1 * (1 - b + b * counts.total() / mean)
        total += idf * (counts[word] * (k1 + 1) / (counts[word] + norm) if counts[word] else 0.0)
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0.0, 1.0)])
def test_scores_are_the_formula_of_robertson(k1, b):
    wanted = [
        [naive_score(q, d, DOCUMENTS, k1, b) if split_words(d) else 0.0 for d in DOCUMENTS]
        for q in QUERIES
    ]
    scores = BM25.build(DOCUMENTS, k1=k1, b=b).scores(QUERIES)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6, atol=1e-6)
    assert scores.dtype == np.float32


def test_words_of_code_fall_apart():
    assert split_words("KeyedVectors.most_similar(k=3)") == [
        *("keyed", "vectors", "most", "similar", "k", "3")
    ]
    assert split_words("HTTPServer2 Éa") == ["http", "server2", "éa"]


def test_rank_keeps_to_pools_and_order():
    scores = np.array([[0.5, 2.0, 0.5, 1.0], [0.0, 0.0, 3.0, 1.0]])
    np.testing.assert_array_equal(rank(scores, 3), [[1, 3, 0], [2, 3, 0]])
    pools = np.array([[0, 2, -1], [1, -1, -1]])
    np.testing.assert_array_equal(rank(scores, 2, pools=pools), [[0, 2], [1, -1]])
    np.testing.assert_array_equal(rank(scores[:, :1], 2), [[0, -1], [0, -1]])


def test_best_rank_is_the_place_of_the_first_relevant_candidate():
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, (40, 9)).astype(np.float32)  # many are equal
    relevant = np.array([random.permutation(9)[:3] for _ in range(40)])
    relevant[random.random(relevant.shape) < 0.3] = -1
    relevant[0] = -1
    pools = np.array([random.permutation(9)[:5] for _ in range(40)])
    pools[:, 4] = -1
    for within in (None, pools):
        found = rank(scores, 9, pools=within)
        wanted = []
        for row, right in zip(found, relevant, strict=True):
            places = [p for p, one in enumerate(row, 1) if one >= 0 and one in right[right >= 0]]
            wanted.append(min(places, default=0))
        assert 0 in wanted and max(wanted) > 3
        np.testing.assert_array_equal(best_rank(scores, relevant, pools=within), wanted)
    scores[3, 3] = np.nan
    with pytest.raises(ValueError, match="a score is NaN"):
        best_rank(scores, relevant)


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match="k1 is -1"):
        BM25.build(DOCUMENTS, k1=-1.0)
    with pytest.raises(ValueError, match="no documents"):
        BM25.build([])
    with pytest.raises(ValueError, match="at least 1"):
        rank(np.zeros((1, 2)), 0)
