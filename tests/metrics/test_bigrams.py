"""Guesses by counts, against counting by hand."""

import collections

import numpy as np
import pytest

from jaxembed.metrics.bigrams import count_bigrams

VOCAB = 7


@pytest.fixture(scope="module")
def text():
    # Word 6 does not occur, 5 comes last and once only.
    return np.append(np.random.default_rng(0).integers(0, 5, 200), 5)


def test_guesses_are_the_likeliest_by_brute_force(text):
    bigrams = count_bigrams(text, VOCAB)
    counts = collections.Counter(text.tolist())
    pairs = collections.Counter(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
    assert bigrams.counts.tolist() == [counts[word] for word in range(VOCAB)]
    top = max(range(VOCAB), key=lambda word: counts[word])
    assert bigrams.most_frequent() == top
    before, after = (grid.ravel() for grid in np.meshgrid(np.arange(VOCAB), np.arange(VOCAB)))
    follows = bigrams.guess_after(before)
    between = bigrams.guess_between(before, after)
    for first, last, right, both in zip(before, after, follows, between, strict=True):
        scores = [pairs[first, word] for word in range(VOCAB)]
        assert scores[right] == max(scores) if any(scores) else right == top
        chain = [
            pairs[first, word] * pairs[word, last] / counts[word] if counts[word] else 0.0
            for word in range(VOCAB)
        ]
        assert chain[both] == max(chain) if any(chain) else both == right


def test_a_chain_is_guessed_as_well_as_it_can_be():
    # Each word is followed by one of two: from one side half is right, from both sides nearly all.
    draw = np.random.default_rng(1)
    text = np.cumsum(draw.choice([1, 3], 20_000)) % 11
    bigrams = count_bigrams(text[:10_000], 11)
    before, truth, after = text[10_000:-2], text[10_001:-1], text[10_002:]
    left = np.mean(bigrams.guess_after(before) == truth)
    both = np.mean(bigrams.guess_between(before, after) == truth)
    # Steps of 1 + 3 and 3 + 1 cannot be told apart: a half is guessed of that half.
    assert abs(left - 0.5) < 0.03 and abs(both - 0.75) < 0.03


def test_ids_out_of_range_are_refused():
    for ids in ([], [0, 7], [-1]):
        with pytest.raises(ValueError, match="each of 7 words"):
            count_bigrams(np.array(ids, np.int32), 7)
