import bz2
import gzip
import lzma
import pathlib

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies

from jaxembed.data import read_sentences, text

RAGGED = strategies.text("ab é日\U0001f600\n\t\r\u00a0", max_size=60)


def joined(pieces):
    """Sentences from pieces, empty ones left out."""
    sentences, current = [], []
    for tokens, ends_sentence in pieces:
        current += tokens
        if ends_sentence:
            sentences.append(current)
            current = []
    return [sentence for sentence in [*sentences, current] if sentence]


def naive(content):
    return [line.split() for line in content.split("\n") if line.split()]


@hypothesis.given(RAGGED.filter(bool), strategies.integers(8, 12))
@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.example("é" * 7 + " " + "日" * 5 + "\n\n a", 8)
def test_chunks_cut_anywhere_give_the_same_words(tmp_path_factory, content, chunk):
    hypothesis.assume(all(len(word) < chunk for word in content.split()))
    path = tmp_path_factory.getbasetemp() / "ragged.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_CHUNK", chunk)
        assert joined(read_sentences(path)) == naive(content)
        assert joined(read_sentences([content.replace("\n", " ")])) == naive(
            content.replace("\n", " ")
        )


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_packed_files_equal_plain_ones(tmp_path, suffix, pack):
    content = "one two\nthree\n" * 5000
    packed = tmp_path / f"text{suffix}"
    packed.write_bytes(pack(content.encode()))
    assert joined(read_sentences(str(packed))) == naive(content)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(ValueError, match=rf"text\{suffix} is damaged.*bytes of its content"):
        list(read_sentences(packed))
    packed.write_bytes(b"not packed at all")
    with pytest.raises(ValueError, match=rf"text\{suffix} is damaged"):
        list(read_sentences(packed))


def test_a_folder_equals_its_files_one_after_another(tmp_path):
    parts = {"b.txt": "b b\nc\n", "a/z.txt": "a\n", "a/y.txt.gz": "y y", "c": "", ".hidden": "no"}
    for name, content in parts.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        data = content.encode()
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert joined(read_sentences(tmp_path)) == [["y", "y"], ["a"], ["b", "b"], ["c"]]


def test_iterables_are_read_once_and_as_they_come():
    taken = []

    def sentences():
        for sentence in (["New York", "is"], "big and  old", ("a",)):
            taken.append(sentence)
            yield sentence

    pieces = read_sentences(sentences())
    assert next(pieces) == (["New York", "is"], True)
    assert len(taken) == 1
    assert list(pieces) == [(["big", "and", "old"], True), (["a"], True)]


def test_text_is_lowered_only_when_asked(tmp_path):
    (tmp_path / "t").write_text("\ufeffGroß ΟΔΟΣ\n", encoding="utf-8")
    assert joined(read_sentences(tmp_path / "t")) == [["Groß", "ΟΔΟΣ"]]
    assert joined(read_sentences(tmp_path / "t", lowercase=True)) == [["groß", "οδος"]]
    assert joined(read_sentences([["A", "b"]], lowercase=True)) == [["a", "b"]]


@pytest.fixture
def tokenizer_path(tmp_path):
    """A small word-piece model that truncates and pads when left to itself."""
    pieces = {"[UNK]": 0, "[PAD]": 1, "play": 2, "##ing": 3, "the": 4}
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.enable_truncation(3)
    model.enable_padding(length=5)
    model.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_subwords_are_neither_truncated_nor_padded(tokenizer_path):
    pieces = read_sentences(["the playing playing", ["the", "play"]], tokenizer=tokenizer_path)
    assert joined(pieces) == [["the", "play", "##ing", "play", "##ing"], ["the", "play"]]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*none.json"):
        list(read_sentences(["a"], tokenizer=tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json is not a Hugging Face tokenizer"):
        list(read_sentences(["a"], tokenizer=tmp_path / "bad.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.txt is empty"),
        (b"ab\x00cd", "NUL byte at offset 2"),
        (b"good \xff text", "byte 0xff at offset 5"),
        (b"cut \xc3", "byte 0xc3 at offset 4"),
        ("utf-16".encode("utf-16"), "NUL byte"),
        (b"w" * 3000000, "a word of more than 1,048,576 characters"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_sentences(tmp_path / "bad.txt"))
    assert str(tmp_path / "bad.txt") in str(caught.value)


def test_a_desert_of_blanks_is_no_word(tmp_path):
    (tmp_path / "t").write_bytes(b"a" + b" " * 3000000 + b"b")
    assert joined(read_sentences(tmp_path / "t")) == [["a", "b"]]


def test_an_endless_line_comes_in_pieces(tmp_path):
    (tmp_path / "t").write_bytes(b"endless line " * 500000)
    pieces = list(read_sentences(tmp_path / "t"))
    assert sum(len(tokens) for tokens, _ in pieces) == 1000000
    assert max(len(tokens) for tokens, _ in pieces) < 400000
    assert not any(ends_sentence for _, ends_sentence in pieces[:-1])


def test_offsets_count_from_the_start_of_the_file(tmp_path):
    (tmp_path / "bad").write_bytes(b"word " * 500000 + "é".encode()[:1] + b"x")
    with pytest.raises(ValueError, match="at offset 2,500,000"):
        list(read_sentences(tmp_path / "bad"))


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "t").write_text("a")
    monkeypatch.setattr(text, "open", refuse, raising=False)
    with pytest.raises(ValueError, match="Permission denied.*make it readable"):
        list(read_sentences(tmp_path / "t"))


def test_unknown_names_get_the_known_ones_and_the_nearest():
    with pytest.raises(FileNotFoundError, match="glyphs, tfds:NAME. Did you mean 'docstrings'"):
        read_sentences("docstring")  # before anything is read
    with pytest.raises(FileNotFoundError, match="neither an embedded data set nor an existing"):
        read_sentences("/no/such/file.txt")
    with pytest.raises(FileNotFoundError, match="no file or folder at /no/such/file.txt"):
        read_sentences(pathlib.Path("/no/such/file.txt"))


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no text in the 0 files"):
        list(read_sentences(tmp_path))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([1], TypeError, "sentence 0 is of type int"),
        ([["a"], ["b", 2]], TypeError, "sentence 1 holds a token of type int"),
        ([["a", b"b"]], TypeError, "decode bytes"),
        ([["a", ""]], ValueError, "empty token"),
    ],
)
def test_sentences_of_a_wrong_type_are_numbered(source, error, message):
    with pytest.raises(error, match=message):
        list(read_sentences(iter(source)))  # beartype looks into lists, not into iterators
