"""What word2vec draws from, made once on the host in float64: subsampling, negatives, the tree."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Int32, UInt32


def keep_probabilities(counts: Int[np.ndarray, "vocab"], sample: float) -> np.ndarray:
    """Probability with which an occurrence of each word survives subsampling.

    min(1, (sqrt(f / t) + 1) t / f) for relative frequency f and threshold t: word2vec.c's rule,
    which differs from the paper's 1 - sqrt(t / f).

    Args:
        counts: Occurrences of each word, positive.
        sample: Threshold t; 0 keeps everything.

    Returns:
        Float64 probabilities, shape [vocab].

    Raises:
        ValueError: If `sample` is negative.
    """
    if sample < 0:
        raise ValueError(f"sample is {sample}; wanted a threshold >= 0, where 0 keeps every word.")
    frequency = counts / counts.sum()
    if sample == 0:
        return np.ones(len(counts))
    return np.minimum(1.0, (np.sqrt(frequency / sample) + 1.0) * sample / frequency)


def threshold(probabilities: np.ndarray) -> UInt32[np.ndarray, "..."]:
    """Returns t such that uniform 32-bit `bits <= t` holds with each probability, to 2^-32."""
    scaled = np.ceil(np.asarray(probabilities, np.float64) * 2.0**32) - 1.0
    return np.clip(scaled, 0, 2**32 - 1).astype(np.uint32)


class AliasTable(NamedTuple):
    """A discrete distribution from which one draw costs two lookups.

    Attributes:
        threshold: A uniform slot keeps itself where 32 uniform bits are <= this.
        alias: The word it turns into otherwise.

    Reference: Vose, 1991, https://doi.org/10.1109/32.92917.
    """

    threshold: UInt32[Array, "vocab"]
    alias: Int32[Array, "vocab"]

    def draw(self, key: Array, shape: tuple[int, ...]) -> Int32[Array, "..."]:
        """Returns independent draws of the given shape."""
        slot_key, bits_key = jax.random.split(key)
        slots = jax.random.randint(slot_key, shape, 0, self.alias.shape[0])
        bits = jax.random.bits(bits_key, shape)
        keeps = bits <= self.threshold.at[slots].get(mode="promise_in_bounds")
        return jax.numpy.where(keeps, slots, self.alias.at[slots].get(mode="promise_in_bounds"))


def alias_table(weights: np.ndarray) -> AliasTable:
    """Prepares non-negative weights, shape [vocab], for drawing in proportion to them.

    Raises:
        ValueError: If a weight is negative or not finite, or all are 0.
    """
    weights = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(weights)) or weights.min() < 0 or weights.sum() == 0:
        raise ValueError("weights must be finite and >= 0, and one of them positive.")
    share = weights * (len(weights) / weights.sum())
    alias = np.arange(len(weights), dtype=np.int32)
    small = list(np.flatnonzero(share < 1.0))
    large = list(np.flatnonzero(share >= 1.0))
    while small and large:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        share[rich] -= 1.0 - share[poor]
        if share[rich] < 1.0:
            small.append(large.pop())
    # What is left on either side is 1 up to rounding, and its alias is itself.
    return AliasTable(threshold(np.minimum(share, 1.0)), alias)


class HuffmanTree(NamedTuple):
    """A Huffman tree over words, its paths stored end to end.

    Node ids run from 0 (the root) to vocab - 2 in the order of falling weight, so a parent's id is
    below its children's and the first n nodes are the n most visited ones.

    Attributes:
        offsets: Word w's path is the entries offsets[w]:offsets[w + 1] of `nodes` and `turns`.
        nodes: Inner nodes, each path from the root downwards.
        turns: 1 where the path turns to the child whose code bit is 1.
    """

    offsets: Int32[Array, "vocab+1"]
    nodes: Int32[Array, "entries"]
    turns: Int32[Array, "entries"]

    def padded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Paths as a rectangle: nodes, turns and mask, each of shape [vocab, depth]."""
        lengths = np.diff(np.asarray(self.offsets))
        mask = np.arange(lengths.max()) < lengths[:, None]
        nodes, turns = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, bool)
        nodes[mask], turns[mask] = np.asarray(self.nodes), np.asarray(self.turns, bool)
        return nodes, turns, mask


def huffman_tree(counts: Int[np.ndarray, "vocab"]) -> HuffmanTree:
    """Builds the tree whose count-weighted path length is the least possible.

    Args:
        counts: Occurrences of each word; the vocabulary's order does not matter.

    Raises:
        ValueError: If there are fewer than two words.

    Reference: Huffman, 1952, by two queues; ties are broken towards leaves and lower ids.
    """
    size = len(counts)
    if size < 2:
        raise ValueError(f"{size} words; a tree needs at least two.")
    order = np.argsort(counts, kind="stable")
    weights = np.concatenate([np.asarray(counts, np.int64)[order], np.zeros(size - 1, np.int64)])
    parents, bits = np.zeros(2 * size - 1, np.int64), np.zeros(2 * size - 1, np.int32)
    leaf, inner = 0, size
    for node in range(size, 2 * size - 1):
        for bit in (0, 1):
            if leaf < size and (inner >= node or weights[leaf] <= weights[inner]):
                child, leaf = leaf, leaf + 1
            else:
                child, inner = inner, inner + 1
            weights[node] += weights[child]
            parents[child], bits[child] = node, bit
    # Inner nodes were made in the order of rising weight: the root, made last, becomes 0.
    return _paths(order, parents, bits)


def _paths(order: np.ndarray, parents: np.ndarray, bits: np.ndarray) -> HuffmanTree:
    """Walks from all leaves to the root at once and stores the paths from the root."""
    size = len(order)
    root = 2 * size - 2
    depths = np.zeros(2 * size - 1, np.int32)
    for node in range(root - 1, -1, -1):
        depths[node] = depths[parents[node]] + 1
    lengths = np.zeros(size, np.int64)
    lengths[order] = depths[:size]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nodes, turns = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.int32)
    words, current = order.copy(), np.arange(size)
    position = offsets[words + 1] - 1
    while len(words):
        nodes[position] = root - parents[current]
        turns[position] = bits[current]
        current, position = parents[current], position - 1
        alive = current != root
        words, current, position = words[alive], current[alive], position[alive]
    return HuffmanTree(offsets.astype(np.int32), nodes, turns)
