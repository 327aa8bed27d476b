"""Packed rows hold every sequence once, whole, and little else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxembed.data.packing import pack_rows, plan_rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=30), st.integers(1, 5), st.integers(1, 12))
def test_rows_are_never_too_full_and_hold_what_may_open_one(lengths, most, opening):
    plan = plan_rows(lengths, 12, most, opening=opening)
    placed = sorted(place for row in plan for place in row)
    assert len(set(placed)) == len(placed)
    assert {place for place, length in enumerate(lengths) if length >= opening} <= set(placed)
    for row in plan:
        assert 1 <= len(row) <= most and sum(lengths[place] for place in row) <= 12
        assert max(lengths[place] for place in row) >= opening


def test_many_short_sequences_leave_little_room():
    lengths = np.random.default_rng(0).integers(3, 60, 2000)
    plan = plan_rows(lengths, 64, 21)
    assert lengths.sum() / (64 * len(plan)) > 0.97


def test_rows_hold_their_sequences():
    sequences = [np.arange(10, 10 + length, dtype=np.int32) for length in (3, 5, 2)]
    packed = pack_rows(sequences, [[1, 0], [2]], rows=3, row_length=9, most=2)
    assert packed.ids.tolist() == [
        [10, 11, 12, 13, 14, 10, 11, 12, 0],
        [10, 11, 0, 0, 0, 0, 0, 0, 0],
        [0] * 9,
    ]
    assert packed.numbers.tolist()[:2] == [[0] * 5 + [1] * 3 + [-1], [0, 0] + [-1] * 7]
    assert packed.numbers[2].tolist() == [-1] * 9
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert packed.places.tolist() == [[1, 0], [2, -1], [-1, -1]]
    assert packed.starts.tolist() == [[0, 5], [0, 0], [0, 0]]


def test_a_sequence_that_no_row_holds_is_named():
    with pytest.raises(ValueError, match="sequence 1 has 10 tokens, a row 1 to 9"):
        plan_rows([3, 10], 9, 2)
