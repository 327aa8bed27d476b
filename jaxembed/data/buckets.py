"""Sequences of many lengths in few shapes, so that few programs are compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

MOST_SHAPES = 8


def choose_lengths(
    lengths: Iterable[int] | Int[np.ndarray, "count"], *, count: int = MOST_SHAPES
) -> tuple[int, ...]:
    """The lengths to pad to that leave the least padding.

    Args:
        lengths: Lengths of the sequences, each 0 or more.
        count: Most different lengths to pad to.

    Returns:
        At most `count` lengths, rising; the last is the greatest there is, and at least 1.

    Raises:
        ValueError: If there are no lengths, or `count` is below 1.
    """
    counts = Counter(max(int(length), 1) for length in lengths)
    if not counts or count < 1:
        raise ValueError(f"{len(counts)} lengths for {count} shapes: give one or more of each.")
    values = np.array(sorted(counts))
    total = np.cumsum([0, *(counts[value] for value in values)])
    size = len(values)
    # cost[i]: fewest padded tokens of the first i lengths in so many shapes.
    cost = np.full(size + 1, np.inf)
    cost[0] = 0.0
    choices = []
    for _ in range(min(count, size)):
        # A shape that ends at length j takes all lengths from i on.
        new = cost[:, None] + values[None] * (total[None, 1:] - total[:, None])
        new = np.where(np.arange(size + 1)[:, None] <= np.arange(size)[None], new, np.inf)
        choices.append(np.argmin(new, axis=0))
        cost = np.concatenate([[np.inf], np.min(new, axis=0)])
    chosen, end = [], size
    for choice in reversed(choices):
        chosen.append(int(values[end - 1]))
        end = int(choice[end - 1])
    return tuple(reversed(chosen))


class Bucket(NamedTuple):
    """Sequences of one shape: their places in the data, their ids padded with 0, their lengths.

    Rows that only fill up the batch have place -1 and length 0.
    """

    places: Int32[np.ndarray, "batch"]
    ids: Int32[np.ndarray, "batch length"]
    lengths: Int32[np.ndarray, "batch"]


def bucket_batches(
    sequences: Sequence[Sequence[int]], shapes: Sequence[int], batch_size: int
) -> Iterator[Bucket]:
    """Puts sequences into batches of a few fixed shapes.

    Args:
        sequences: Ids, of any length up to the last shape.
        shapes: Lengths to pad to, rising, such as `choose_lengths` gives.
        batch_size: Rows a batch; the last of a shape is filled up.

    Yields:
        Every sequence once, the shortest shapes first and in order within a shape.

    Raises:
        ValueError: If a sequence is longer than the last shape; the message names it.
    """
    bins: dict[int, list[int]] = {shape: [] for shape in shapes}
    for place, sequence in enumerate(sequences):
        shape = next((shape for shape in shapes if len(sequence) <= shape), None)
        if shape is None:
            raise ValueError(
                f"sequence {place} has {len(sequence)} tokens, more than the longest shape "
                f"{shapes[-1]}: cut it."
            )
        bins[shape].append(place)
    for shape, found in bins.items():
        for start in range(0, len(found), batch_size):
            batch = found[start : start + batch_size]
            places = np.full(batch_size, -1, np.int32)
            places[: len(batch)] = batch
            ids = np.zeros((batch_size, shape), np.int32)
            lengths = np.zeros(batch_size, np.int32)
            for row, place in enumerate(batch):
                lengths[row] = len(sequences[place])
                ids[row, : lengths[row]] = sequences[place]
            yield Bucket(places, ids, lengths)


class PairBatches:
    """Whole batches of encoded pairs as a random access source for `make_batches`.

    A batch holds pairs of about one length; both sides are padded to the same one of a few
    lengths. Which pairs share a batch is drawn once from `seed`; the order of batches is
    `make_batches`'s (with `batch_size=None`).

    Attributes:
        shapes: The lengths padded to; as many programs are compiled for training.
        dropped: Pairs left out because a side is longer than `max_len`.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        *,
        batch_size: int,
        max_len: int,
        seed: int = 0,
        count: int = MOST_SHAPES,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Sorts pairs into batches.

        Args:
            sources: Ids of each source, with EOS if the model is to see it.
            targets: Ids of each target with EOS, without BOS.
            batch_size: Rows a batch; the last of a shape is filled up with rows of length 0.
            max_len: Longest side of a pair.
            seed: Decides which pairs share a batch.
            count: Most shapes.
            process_index: Which process this is: each reads its rows of every batch.
            process_count: How many there are; divides `batch_size`.

        Raises:
            ValueError: If the numbers differ or no pair is left.
        """
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources but {len(targets)} targets: give pairs.")
        longest = np.array(
            [max(len(a), len(b)) for a, b in zip(sources, targets, strict=True)], np.int64
        )
        kept = np.flatnonzero(longest <= max_len)
        if not kept.size:
            raise ValueError(f"None of {len(sources)} pairs is within {max_len} tokens: raise it.")
        self.dropped = len(sources) - kept.size
        self.shapes = choose_lengths(longest[kept], count=count)
        order = np.random.default_rng(seed).permutation(kept)
        shape_of = np.searchsorted(self.shapes, longest[order])
        self._batches = []
        for index, shape in enumerate(self.shapes):
            members = order[shape_of == index]
            for start in range(0, len(members), batch_size):
                self._batches.append((shape, members[start : start + batch_size]))
        self._sources, self._targets = sources, targets
        self._rows = batch_size // process_count
        self._first = self._rows * process_index

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """A batch: `source`, `target` [rows, shape] int32 and their lengths [rows] int32."""
        shape, members = self._batches[index]
        members = members[self._first : self._first + self._rows]
        batch = {}
        for name, sequences in (("source", self._sources), ("target", self._targets)):
            ids = np.zeros((self._rows, shape), np.int32)
            lengths = np.zeros(self._rows, np.int32)
            for row, place in enumerate(members):
                lengths[row] = len(sequences[place])
                ids[row, : lengths[row]] = sequences[place]
            batch[name], batch[f"{name}_lengths"] = ids, lengths
        return batch
