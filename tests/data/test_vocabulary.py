import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from jaxembed.data import Vocabulary, make_vocabulary

words = strategies.text(strategies.characters(exclude_categories=()), min_size=1, max_size=6)


@hypothesis.given(strategies.dictionaries(words, strategies.integers(1, 9)))
@hypothesis.settings(max_examples=50, deadline=None)
def test_saved_vocabulary_loads_equal(tmp_path_factory, counts):
    vocabulary = make_vocabulary(counts)
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    try:
        vocabulary.save(path)
    except ValueError:  # only the one thing that UTF-8 cannot tell apart
        assert any("pair of surrogates" for word in counts if len(word) > 1)
        return
    path.read_bytes().decode("utf-8")
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.counts.dtype == np.int64


def test_lone_surrogates_and_other_scripts_survive(tmp_path):
    vocabulary = make_vocabulary({"\ud800": 3, "größe": 2, "日本": 2, '"\\\n': 1, "\\ud800": 1})
    vocabulary.save(tmp_path / "v")
    assert Vocabulary.load(tmp_path / "v") == vocabulary
    assert "größe" in (tmp_path / "v").read_text(encoding="utf-8")


def test_pairs_of_surrogates_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pair of surrogates"):
        make_vocabulary({"\ud83d" + "\ude00": 1}).save(tmp_path / "v")
    assert not list(tmp_path.iterdir())


def test_order_is_by_count_then_code_points():
    text = "b a c c Z é a b z z z".split()
    vocabulary = make_vocabulary(collections.Counter(text))
    assert vocabulary.words == ("z", "a", "b", "c", "Z", "é")
    assert vocabulary.counts.tolist() == [3, 2, 2, 2, 1, 1]
    assert make_vocabulary(collections.Counter(text), max_vocab=3).words == ("z", "a", "b")
    assert make_vocabulary(collections.Counter(text), min_count=3).words == ("z",)


def test_words_are_looked_up_both_ways():
    vocabulary = make_vocabulary({"queen": 2, "king": 3})
    assert [vocabulary[word] for word in vocabulary.words] == [0, 1]
    assert "king" in vocabulary and "prince" not in vocabulary and len(vocabulary) == 2
    with pytest.raises(KeyError, match="'quen' is not among the 2 words.*Did you mean 'queen'"):
        vocabulary["quen"]


def test_counts_cannot_be_changed():
    counts = np.array([2, 1])
    vocabulary = Vocabulary(("a", "b"), counts)
    counts[0] = 9
    assert vocabulary.counts[0] == 2
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.counts[0] = 1


@pytest.mark.parametrize(
    ("names", "counts", "error"),
    [
        (("a", "a"), [1, 1], ValueError),
        (("a",), [1, 2], ValueError),
        (("a",), [-1], ValueError),
        (("a",), [0.5], TypeError),
    ],
)
def test_inconsistent_words_and_counts_are_refused(names, counts, error):
    with pytest.raises(error):
        Vocabulary(names, np.array(counts))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        '{"words": ["a"]}',
        '{"words": ["a"], "counts": [1.5]}',
        '{"words": ["a", "a"], "counts": [1, 1]}',
        '{"words": ["a"], "counts": [99999999999999999999]}',
        '{"words": [1], "counts": [1]}',
        '{"words": null, "counts": []}',
        "\x80",
    ],
)
def test_files_that_are_no_vocabulary_are_refused(tmp_path, content):
    (tmp_path / "v").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="is not a vocabulary"):
        Vocabulary.load(tmp_path / "v")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Vocabulary.load(tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"min_count": 0}, {"max_vocab": 0}])
def test_limits_under_one_are_refused(options):
    with pytest.raises(ValueError, match="is 0"):
        make_vocabulary({"a": 1}, **options)
