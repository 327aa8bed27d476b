"""Sequences of many lengths side by side in rows of one length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32


class PackedRows(NamedTuple):
    """Rows that each hold several sequences one behind the other.

    Attributes:
        ids: Token ids, padded behind with 0.
        numbers: Which sequence of its row a token is of, from 0; -1 for padding.
        positions: Place of a token in its sequence, from 0.
        places: Number of each row's sequences in the data, -1 where there are fewer.
        starts: Where each begins in its row; 0 where there are fewer.
    """

    ids: Int32[np.ndarray, "rows length"]
    numbers: Int32[np.ndarray, "rows length"]
    positions: Int32[np.ndarray, "rows length"]
    places: Int32[np.ndarray, "rows most"]
    starts: Int32[np.ndarray, "rows most"]


def plan_rows(
    lengths: Sequence[int] | Int[np.ndarray, "count"],
    row_length: int,
    most: int,
    *,
    opening: int = 1,
) -> list[list[int]]:
    """Decides which sequences share a row: the longest first, each where it leaves least room.

    Args:
        lengths: Lengths of the sequences, 1 to `row_length`.
        row_length: Tokens a row.
        most: Sequences a row at most.
        opening: A shorter sequence only fills up a row that a longer one began; without room in
            any it is left out.

    Returns:
        The numbers of each row's sequences.

    Raises:
        ValueError: If a sequence is longer than a row; the message names it.

    Reference: Krell et al., 2021, https://arxiv.org/abs/2107.02027, algorithm 1 (packing of BERT's
    inputs; theirs works on histograms).
    """
    rows: list[list[int]] = []
    # Rows by their free room; a bit is set where there is one, so that the least is found at once.
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]
    bits = 0
    for place in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        length = int(lengths[place])
        if not 1 <= length <= row_length:
            raise ValueError(
                f"sequence {place} has {length} tokens, a row 1 to {row_length}: cut it."
            )
        if fitting := bits >> length:
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                bits &= ~(1 << free)
        elif length >= opening:
            free, row = row_length, len(rows)
            rows.append([])
        else:
            continue
        rows[row].append(place)
        if len(rows[row]) < most and free > length:
            open_rows[free - length].append(row)
            bits |= 1 << (free - length)
    return rows


def pack_rows(
    sequences: Sequence[Int[np.ndarray, "_"]],
    plan: Sequence[Sequence[int]],
    *,
    rows: int,
    row_length: int,
    most: int,
) -> PackedRows:
    """Puts sequences into rows as planned.

    Args:
        sequences: Ids.
        plan: The sequences of each row, see `plan_rows`.
        rows: Rows to make; those behind the plan's are padding.
        row_length: Tokens a row.
        most: Sequences a row at most.

    Returns:
        The rows.
    """
    shape, counts = (rows, row_length), (rows, most)
    packed = PackedRows(
        ids=np.zeros(shape, np.int32),
        numbers=np.full(shape, -1, np.int32),
        positions=np.zeros(shape, np.int32),
        places=np.full(counts, -1, np.int32),
        starts=np.zeros(counts, np.int32),
    )
    for row, members in enumerate(plan):
        start = 0
        for number, place in enumerate(members):
            sequence = sequences[place]
            end = start + len(sequence)
            packed.ids[row, start:end] = sequence
            packed.numbers[row, start:end] = number
            packed.positions[row, start:end] = np.arange(len(sequence))
            packed.places[row, number], packed.starts[row, number] = place, start
            start = end
    return packed
