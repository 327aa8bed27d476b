"""Vocabularies of symbols, words and subwords."""

import pytest

from jaxembed.data import load_token_vocabulary, make_token_vocabulary
from jaxembed.data.tokens import SPECIALS

LINES = ["Der Hund, der bellt.", "der Hund schläft", "ein Hund"] * 5


@pytest.mark.parametrize("unit", ["symbols", "words", "subwords"])
def test_lines_come_back_and_so_does_the_vocabulary(unit):
    vocabulary = make_token_vocabulary(LINES, unit=unit, max_size=60)
    again = load_token_vocabulary(vocabulary.to_json())
    for line in LINES[:3]:
        ids = vocabulary.encode(line)
        assert min(ids) >= len(SPECIALS) and max(ids) < len(vocabulary) <= 60
        assert vocabulary.decode([1, *ids, 2, 0]) == line
        assert again.encode(line) == ids and again.decode(ids) == line
    assert vocabulary.encode("Ж")[-1] == 3 and vocabulary.unknown("Ж") == ["Ж"]
    assert make_token_vocabulary(LINES, unit=unit, max_size=60) == vocabulary


def test_frequent_tokens_come_first_and_rare_ones_are_left_out():
    vocabulary = make_token_vocabulary(["b b a a c", "b <eos>"], min_count=2)
    assert vocabulary.tokens == (*SPECIALS, "b", "a")
    assert make_token_vocabulary(["A a B"], lowercase=True).tokens[4:] == ("a", "b")
    assert vocabulary.encode("a <eos>") == [5, 3]  # a special in a text is no special


def test_what_is_no_vocabulary_is_refused():
    for content in ("", "{}", '{"unit": "words", "tokens": ["a"], "lowercase": false}'):
        with pytest.raises(ValueError, match="no vocabulary of tokens"):
            load_token_vocabulary(content)
    # By the function itself, or before it by the types in its signature.
    with pytest.raises((ValueError, TypeError), match="bytes"):
        make_token_vocabulary(LINES, unit="bytes")
    with pytest.raises(ValueError, match="need a max_size"):
        make_token_vocabulary(LINES, unit="subwords")
    with pytest.raises(ValueError, match="max_size 4"):
        make_token_vocabulary(LINES, max_size=4)
