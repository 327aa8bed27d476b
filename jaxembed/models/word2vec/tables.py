"""Constants of a vocabulary that every update reads, made once on the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt32

from jaxembed.models.word2vec.config import Step
from jaxembed.models.word2vec.sampling import (
    AliasTable,
    HuffmanTree,
    alias_table,
    huffman_tree,
    keep_probabilities,
    threshold,
)

TOP_NODES = 32  # inner nodes of the tree held as one dense matrix; a word's part fits 32 bits


class Tables(NamedTuple):
    """Constants of a vocabulary that every update reads.

    Attributes:
        keep: Subsampling thresholds on 32 bits.
        input_scale: Factor in (0, 1] on the summed update of each input row.
        output_scale: The same for output rows.
        noise: Distribution of negatives, for negative sampling.
        top_bits: The path among the top nodes: bit n of [0] says that node n is on it, of [1]
            that the path turns to code 0 there.
        tail_offsets: Where the rest of each path starts in `tail`, and past the last one its end.
        tail: The rest of all paths: 2 * node + code.
    """

    keep: UInt32[Array, "vocab"]
    input_scale: Float[Array, "vocab"]
    output_scale: Float[Array, "outputs"]
    noise: AliasTable | None = None
    top_bits: UInt32[Array, "2 vocab"] | None = None
    tail_offsets: Int32[Array, "vocab+1"] | None = None
    tail: Int32[Array, "entries"] | None = None


def make_tables(
    step: Step,
    counts: Int[np.ndarray, "vocab"],
    *,
    sample: float = 1e-3,
    exponent: float = 0.75,
    damping: float = 4.0,
) -> Tables:
    """Makes a vocabulary's constants.

    A step sums updates that are all computed from the same stale tables. For a frequent word that
    is many of them, and the sum overshoots; its row's update is therefore scaled by
    min(1, damping / E), E the number of times the word is expected to occur in a step, in units of
    what one position contributes.

    Args:
        step: The update.
        counts: Occurrences of each word.
        sample: Threshold of subsampling; 0 keeps everything.
        exponent: Negatives are drawn in proportion to counts ** exponent.
        damping: Occurrences of a row that a step sums at full strength; inf for no damping.

    Returns:
        The tables, on the default device.
    """
    counts = np.asarray(counts, np.int64)
    keep = keep_probabilities(counts, sample)
    share = counts * keep / np.sum(counts * keep)
    positions = step.streams * step.length
    expected_input = positions * share * (1 if step.architecture == "skip-gram" else 2)
    noise, tree = None, {}
    if step.objective == "negative-sampling":
        weights = counts.astype(np.float64) ** exponent
        noise = alias_table(weights)
        expected_output = positions * (share + step.negatives * weights / weights.sum())
    elif step.objective == "hierarchical-softmax":
        paths = huffman_tree(counts)
        tree = _split_paths(paths)
        visits = np.repeat(share, np.diff(paths.offsets))
        expected_output = positions * np.bincount(paths.nodes, visits, len(counts) - 1)
    else:
        expected_output = positions * 2 * share
    scale = lambda expected: np.minimum(1.0, damping / np.maximum(expected, 1e-30))  # noqa: E731
    tables = Tables(
        keep=threshold(keep),
        input_scale=scale(expected_input).astype(np.float32),
        output_scale=scale(expected_output).astype(np.float32),
        noise=noise,
        **tree,
    )
    return jax.tree.map(jnp.asarray, tables)


def _split_paths(tree: HuffmanTree) -> dict[str, np.ndarray]:
    """Each path's part among the top nodes as bits, and the rest end to end."""
    lengths = np.diff(tree.offsets)
    words = np.repeat(np.arange(len(lengths)), lengths)
    top = tree.nodes < TOP_NODES
    bits = np.zeros((2, len(lengths)), np.uint32)
    values = np.uint32(1) << tree.nodes[top].astype(np.uint32)
    np.bitwise_or.at(bits[0], words[top], values)
    np.bitwise_or.at(bits[1], words[top], np.where(tree.turns[top] == 0, values, np.uint32(0)))
    tail_lengths = np.bincount(words[~top], minlength=len(lengths))
    return {
        "top_bits": bits,
        "tail_offsets": np.concatenate([[0], np.cumsum(tail_lengths)]).astype(np.int32),
        "tail": (2 * tree.nodes + tree.turns)[~top].astype(np.int32),
    }
