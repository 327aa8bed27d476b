"""Users' histories against the lines they were read from, and malformed files."""

import numpy as np
import pytest

from jaxembed.data import read_histories


def write(folder, train, test="0 4\n"):
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return folder


def test_rows_are_the_lines(tmp_path):
    found = read_histories(write(tmp_path, "2 3 1\n0 5 5 2\n\n", "0 4 0\n3\n"))
    assert [found.train.row(user).tolist() for user in range(4)] == [[2, 5], [], [1, 3], []]
    assert found.train.width == found.test.width == 6 and len(found.test) == 4
    dense = found.train.dense(np.array([2, 1, 0]))
    np.testing.assert_array_equal(
        dense, [[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]]
    )
    np.testing.assert_array_equal(found.test.padded(np.array([0, 1])), [[0, 4], [-1, -1]])
    assert found.train.popularity().tolist() == [0, 1, 1, 1, 0, 1]
    again = read_histories(write(tmp_path, "2 1 3\n0 5 2\n", "0 0 4\n3\n"))
    assert found.fingerprint == again.fingerprint
    assert found.fingerprint != read_histories(write(tmp_path, "2 1\n")).fingerprint


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("0 1\n0 2\n", "0 4\n", r"train\.txt, line 2: user 0 has a line already"),
        ("0 1\n1 x\n", "0 4\n", r"train\.txt, line 2: '1 x' is not"),
        ("0 -1\n", "0 4\n", r"train\.txt, line 1: -1 to 0"),
        ("0 1.5\n", "0 4\n", r"train\.txt, line 1"),
        ("0 1 4\n", "0 4\n", r"item 4 of user 0 is in train\.txt as well"),
        ("0\n", "0 4\n", "has no items"),
    ],
)
def test_malformed_files_are_refused_by_line(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message):
        read_histories(write(tmp_path, train, test))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.txt"):
        read_histories(tmp_path)
