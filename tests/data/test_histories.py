import numpy as np
import pytest

from jaxembed.data import HistorySet, load_histories


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text("0 3 1 1\n2 0\n1\n")
    (tmp_path / "test.txt").write_text("0 4\n2 2 1\n")
    return tmp_path


def test_histories_come_by_user_and_item(folder):
    train, test = load_histories(HistorySet(str(folder)))
    assert len(train) == len(test) == 3 and train.item_count == test.item_count == 5
    assert [list(train[user]) for user in range(3)] == [[1, 3], [], [0]]
    assert [list(test[user]) for user in range(3)] == [[4], [], [1, 2]]
    np.testing.assert_array_equal(train.rows(np.array([2, 0])), [[1, 0, 0, 0, 0], [0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(train.padded(np.array([1, 0])), [[-1, -1], [1, 3]])
    np.testing.assert_array_equal(train.counts(), [1, 1, 0, 1, 0])
    assert train.fingerprint() != test.fingerprint()


def test_ratings_are_split_by_user(monkeypatch):
    ratings = [(b"u%d" % (n % 3), b"i%d" % (n // 3), 5.0 - n % 2) for n in range(30)]
    ratings += [(b"u0", b"bad", 2.0), ratings[0]]
    fields = ("user_id", "movie_id", "user_rating")
    source = [dict(zip(fields, rating, strict=True)) for rating in ratings]
    monkeypatch.setattr("jaxembed.data.histories.open_tfds", lambda name: source)
    train, test = load_histories(HistorySet("tfds:some"))
    assert len(train) == 3 and train.item_count == 10
    for user in range(3):
        assert len(test[user]) == 2
        assert sorted([*train[user], *test[user]]) == list(range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 x\n", r"train\.txt, line 2 is '1 x': wanted `user item"),
        ("0 1\n1 -2\n", r"line 2 is '1 -2'"),
        ("0 1\n0 2\n", "line 2: user 0 came before"),
        ("", "has no items"),
    ],
)
def test_wrong_lines_are_named(folder, text, message):
    (folder / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_histories(HistorySet(str(folder)))


def test_a_missing_file_is_named(folder):
    (folder / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*test\.txt"):
        load_histories(HistorySet(str(folder)))
