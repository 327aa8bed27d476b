"""Subsampling, negatives, trees and windows against their laws."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxembed.losses import hierarchical_softmax
from jaxembed.models.word2vec.sampling import (
    alias_table,
    huffman_tree,
    keep_probabilities,
    threshold,
)
from jaxembed.models.word2vec.stream import cut, subsample

LEAST_P = 1e-4  # fixed keys: a sound law fails this once in ten thousand keys
COUNTS = np.array([5000, 2000, 900, 400, 150, 60, 30, 12, 7, 5])


def test_keep_probability_is_that_of_word2vec_c():
    sample, total = 1e-3, COUNTS.sum()
    for count, got in zip(COUNTS, keep_probabilities(COUNTS, sample), strict=True):
        wanted = (np.sqrt(count / (sample * total)) + 1) * (sample * total) / count
        assert got == pytest.approx(min(wanted, 1.0), rel=1e-12)
    assert np.all(keep_probabilities(COUNTS, 0.0) == 1.0)
    with pytest.raises(ValueError, match="sample is -0.1"):
        keep_probabilities(COUNTS, -0.1)


def test_kept_words_follow_their_probabilities():
    tokens = np.random.default_rng(0).choice(10, 200_000, p=COUNTS / COUNTS.sum())
    keep = keep_probabilities(COUNTS, 1e-2)
    stream = subsample(
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray(threshold(keep)),
        jax.random.key(1),
        window=2,
        padding=0,
    )
    kept = np.asarray(stream.tokens)[2 : 2 + int(stream.length)]
    there, seen = np.bincount(kept, minlength=10), np.bincount(tokens, minlength=10)
    unsure = keep < 1
    assert np.array_equal(there[~unsure], seen[~unsure])
    spread = np.sqrt(seen * keep * (1 - keep))
    z = ((there - seen * keep) / np.where(unsure, spread, 1))[unsure]
    assert np.sum(z**2) < 35  # chi-square of at most 10 degrees of freedom at 1e-4


def test_kept_words_are_the_text_in_order_before_windows_are_laid():
    tokens = np.random.default_rng(0).integers(-1, 10, 3000).astype(np.int32)
    keep = jnp.asarray(threshold(keep_probabilities(COUNTS, 1e-2)))
    stream = subsample(jnp.asarray(tokens), keep, jax.random.key(1), window=3, padding=5)
    kept = np.asarray(stream.tokens)[3 : 3 + int(stream.length)]
    position = 0
    for token in kept:  # a subsequence of the text
        position += int(np.argmax(tokens[position:] == token)) + 1
    always = set(np.flatnonzero(np.asarray(keep) == 2**32 - 1).tolist())
    assert always
    assert [t for t in kept if t in always] == [t for t in tokens if t in always]


def test_negatives_follow_counts_to_the_three_quarters():
    weights = COUNTS**0.75
    table = jax.tree.map(jnp.asarray, alias_table(weights))
    drawn = np.bincount(np.asarray(table.draw(jax.random.key(0), (200_000,))), minlength=10)
    assert chisquare(drawn, 200_000 * weights / weights.sum()).pvalue > LEAST_P


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3))
def test_alias_table_holds_the_distribution_exactly(weights):
    table = alias_table(np.array(weights))
    own = (np.asarray(table.threshold, np.float64) + 1) / 2**32
    share = own + np.bincount(table.alias, 1 - own, minlength=len(weights))
    wanted = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(share / len(weights), wanted, atol=2e-9)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]])
def test_weights_that_are_no_distribution_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be finite"):
        alias_table(np.array(weights))


def test_window_reach_is_uniform():
    stream = subsample(
        jnp.zeros(100_000, jnp.int32),
        jnp.asarray([2**32 - 1], jnp.uint32),
        jax.random.key(0),
        window=5,
        padding=0,
    )
    counts = np.bincount(np.asarray(stream.reach))[1:]
    assert len(counts) == 5
    assert chisquare(counts).pvalue > LEAST_P


def test_pairs_have_the_distances_of_reduced_windows_and_stay_in_their_sentence():
    tokens = jnp.asarray(np.where(np.arange(60_000) % 20 == 19, -1, 1), jnp.int32)
    everything = jnp.full(2, 2**32 - 1, jnp.uint32)
    stream = subsample(tokens, everything, jax.random.key(0), window=5, padding=0)
    starts = jnp.arange(0, 60_000, 20, dtype=jnp.int32)
    tile = cut(stream, starts, length=20, window=5, by_input=True)
    pairs = np.asarray(tile.pairs)
    offsets = np.arange(30) - 5 - np.arange(20)[:, None]
    far = np.array([pairs[:, offsets == d].sum() for d in range(1, 6)])
    # Of 19 words a sentence, 19 - d have a right neighbour at d, within reach with (6 - d) / 5.
    wanted = 3000 * np.array([(19 - d) * (6 - d) / 5 for d in range(1, 6)])
    np.testing.assert_allclose(far, wanted, rtol=0.02)
    assert far[0] == wanted[0]  # distance 1 is always within reach, but never across an end
    assert not pairs[:, 19].any() and not pairs[:, :, 24].any()


def naive_huffman_cost(counts):
    heap = list(map(int, counts))
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=60))
def test_huffman_code_lengths_are_optimal_and_parents_come_first(counts):
    tree = huffman_tree(np.array(counts))
    lengths = np.diff(tree.offsets)
    assert int(np.dot(lengths, counts)) == naive_huffman_cost(counts)
    nodes, _, mask = tree.padded()
    assert np.all(nodes[:, 0] == 0)
    assert np.all((np.diff(nodes, axis=1) > 0)[mask[:, 1:]])
    assert nodes[mask].max() == len(counts) - 2


@pytest.mark.parametrize("size", [2, 3, 50, 1000])
def test_probabilities_of_all_words_sum_to_one(size):
    rng = np.random.default_rng(size)
    nodes, turns, mask = huffman_tree(rng.integers(1, 1000, size)).padded()
    vectors = jnp.asarray(rng.normal(0, 1, (size - 1, 6)), jnp.float32)
    word = jnp.asarray(rng.normal(0, 1, (1, 6)), jnp.float32)
    inputs = jnp.broadcast_to(word, (size, 6))
    losses = hierarchical_softmax(
        inputs, vectors[nodes], jnp.asarray(turns), mask=jnp.asarray(mask)
    )
    assert float(jnp.sum(jnp.exp(-losses))) == pytest.approx(1.0, abs=1e-5)


def test_a_tree_needs_two_words():
    with pytest.raises(ValueError, match="1 words"):
        huffman_tree(np.array([3]))
