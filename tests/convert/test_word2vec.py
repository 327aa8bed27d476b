import errno
import gzip
import struct

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxembed.convert import word2vec

KEYS = ["the", "naïve", "東京", "a-b_c", "caf\udce9", "\udcff\udcfe", "1.5"]
FORMATS = {
    "text": (word2vec.write_word2vec_text, word2vec.read_word2vec_text),
    "glove": (word2vec.write_glove_text, word2vec.read_glove_text),
    "binary": (word2vec.write_word2vec_binary, word2vec.read_word2vec_binary),
}
each_format = pytest.mark.parametrize("name", FORMATS)


def draw(count, dim=3):
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


def assert_same_bits(matrix, expected):
    np.testing.assert_array_equal(matrix.view(np.uint32), expected.view(np.uint32))


@each_format
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(("count", "dim"), [(1, 2), (7, 1), (7, 5)])
def test_round_trip_keeps_every_bit(tmp_path, name, ending, count, dim):
    write, read = FORMATS[name]
    path = tmp_path / f"vectors{ending}"
    write(path, KEYS[:count], draw(count, dim))
    keys, matrix = read(path)
    assert keys == KEYS[:count]
    assert_same_bits(matrix, draw(count, dim))
    write(tmp_path / f"again{ending}", keys, matrix)
    assert (tmp_path / f"again{ending}").read_bytes() == path.read_bytes()


@each_format
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_float32_and_any_bytes_survive(tmp_path_factory, name, data):
    write, read = FORMATS[name]
    dim = data.draw(st.integers(1, 4))
    key = st.binary(min_size=1, max_size=6).map(lambda b: b.decode("utf-8", "surrogateescape"))
    keys = data.draw(st.lists(key.filter(lambda k: not word2vec.WHITESPACE.search(k)), min_size=1))
    assume(not keys[0].startswith("\x1f\udc8b\x08"))  # a plain GloVe file would look gzipped
    numbers = st.floats(width=32, allow_nan=False)
    rows = data.draw(
        st.lists(
            st.lists(numbers, min_size=dim, max_size=dim), min_size=len(keys), max_size=len(keys)
        )
    )
    path = tmp_path_factory.mktemp("any") / "vectors"
    matrix = np.asarray(rows, np.float32)
    write(path, keys, matrix)
    read_keys, read_matrix = read(path)
    assert read_keys == keys
    assert_same_bits(read_matrix, matrix)


@each_format
def test_limit_reads_the_first_rows(tmp_path, name):
    write, read = FORMATS[name]
    write(tmp_path / "v", KEYS, draw(len(KEYS)))
    keys, matrix = read(tmp_path / "v", limit=2)
    assert keys == KEYS[:2]
    assert_same_bits(matrix, draw(len(KEYS))[:2])
    assert read(tmp_path / "v", limit=100)[0] == KEYS
    with pytest.raises(ValueError, match="limit is 0"):
        read(tmp_path / "v", limit=0)


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_binary_is_read_with_and_without_newlines(tmp_path, newline):
    matrix = draw(len(KEYS))
    rows = [
        key.encode("utf-8", "surrogateescape") + b" " + row.tobytes() + newline
        for key, row in zip(KEYS, matrix, strict=True)
    ]
    (tmp_path / "v.bin").write_bytes(b"7 3\n" + b"".join(rows))
    keys, read = word2vec.read_word2vec_binary(tmp_path / "v.bin")
    assert keys == KEYS
    assert_same_bits(read, matrix)


@pytest.mark.parametrize("chunk", [1, 5, 17])
def test_rows_may_lie_across_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(word2vec, "CHUNK_BYTES", chunk)
    word2vec.write_word2vec_binary(tmp_path / "v", KEYS, draw(7))
    keys, matrix = word2vec.read_word2vec_binary(tmp_path / "v")
    assert keys == KEYS
    assert_same_bits(matrix, draw(7))


def test_keys_with_spaces_survive_reading_text(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"3 2\nNew York 1 2 \n. . .\t3 4\nplain  5\t6\r\n\n")
    keys, matrix = word2vec.read_word2vec_text(path)
    assert keys == ["New York", ". . .", "plain"]
    np.testing.assert_array_equal(matrix, [[1, 2], [3, 4], [5, 6]])


def test_read_text_tells_header_from_row(tmp_path):
    word2vec.write_word2vec_text(tmp_path / "a.gz", KEYS, draw(7))
    word2vec.write_glove_text(tmp_path / "b", KEYS, draw(7))
    for path in (tmp_path / "a.gz", tmp_path / "b"):
        keys, matrix = word2vec.read_text(path)
        assert keys == KEYS
        assert_same_bits(matrix, draw(7))


def test_many_rows_grow_the_matrix(tmp_path):
    keys = [f"w{i}" for i in range(3000)]
    word2vec.write_glove_text(tmp_path / "v", keys, draw(3000, 2))
    assert_same_bits(word2vec.read_glove_text(tmp_path / "v")[1], draw(3000, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello world\n", "first line is 'hello world'; wanted `count dim`"),
        (b"2 0\na\nb\n", "first line is '2 0'"),
        (b"3 2\na 1 2\nb 3 4\n", "ends in row 3, but its header announces 3"),
        (b"2 2\na 1 2\nb 3\n", "row 2 holds 1 numbers after its key, wanted 2"),
        (b"2 2\na 1 2\nb 3 x\n", "row 2 holds 'x' where a number is wanted"),
        (b"2 2\na 1 2\nb 3 1_0\n", "row 2 holds '1_0' where a number is wanted"),
        (b"2 2\na 1 2\n\nb 3 4\n", "row 2 is empty, but more rows follow"),
        (b"1 2\na 1 2\nb 3 4\n", "more follows after the 1 rows"),
        (b"2 1\na 1 2\nb 3 4\n", "more than the 1 numbers announced"),
        (b"1 99999999999999\na 1 2\n", "row 1 holds 2 numbers"),
        (b"99999999999999 2\na 1 2\n", "ends in row 2"),
        (b"1 2\na 1 1e39\n", "row 1 holds a number beyond float32"),
    ],
)
def test_damaged_text_is_refused(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(ValueError, match="v.txt") as caught:
        word2vec.read_word2vec_text(tmp_path / "v.txt")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"word\n", "row 1 is 'word'"),
        (b"a 1 2\nb 3\n", "row 2 holds 1 numbers"),
        (b"a 1 2\nb 3 4 x\n", "row 2 holds 'x'"),
    ],
)
def test_damaged_glove_is_refused(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(ValueError, match="v.txt") as caught:
        word2vec.read_glove_text(tmp_path / "v.txt")
    assert message in str(caught.value)


ROW = b"a " + struct.pack("<2f", 1, 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (word2vec.FASTTEXT_MAGIC + b"\0\0\0\0", "a fastText model"),
        (b"2 2\n" + ROW + ROW[:-1], "in row 2"),
        (b"2 2\n" + ROW, "in row 2"),
        (b"1 2\n" + ROW + ROW, "more follows after the 1 rows"),
        (b"1 99999999999999\n" + ROW, "in row 1"),
        (b"99999999999999 2\n" + ROW, "in row 2"),
    ],
)
def test_damaged_binary_is_refused(tmp_path, pack, content, message):
    (tmp_path / "v.bin").write_bytes(pack(content))
    with pytest.raises(ValueError, match="v.bin") as caught:
        word2vec.read_word2vec_binary(tmp_path / "v.bin")
    assert message in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=80), header=st.sampled_from([b"", b"2 1\n", b"3 4\n"]))
def test_garbage_is_read_or_refused_by_name(tmp_path_factory, garbage, header):
    path = tmp_path_factory.mktemp("garbage") / "v"
    path.write_bytes(header + garbage)
    for read in (word2vec.read_text, word2vec.read_word2vec_binary):
        try:
            keys, matrix = read(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert len(keys) == len(matrix)


def test_a_cut_gzip_stream_is_refused(tmp_path):
    word2vec.write_word2vec_text(tmp_path / "v.gz", KEYS, draw(7))
    (tmp_path / "v.gz").write_bytes((tmp_path / "v.gz").read_bytes()[:-20])
    with pytest.raises(ValueError, match="v.gz: the gzip stream is damaged or cut short"):
        word2vec.read_word2vec_text(tmp_path / "v.gz")


@each_format
@pytest.mark.parametrize("key", ["New York", "a\nb", "tab\tbed", "", "end "])
def test_keys_that_the_format_cannot_hold_are_refused(tmp_path, name, key):
    with pytest.raises(ValueError, match="row 2 is empty or contains whitespace") as caught:
        FORMATS[name][0](tmp_path / "v", ["fine", key], draw(2))
    assert repr(key) in str(caught.value)
    assert ".safetensors" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_space_replaces_whitespace_unless_keys_become_equal(tmp_path, name):
    write, read = FORMATS[name]
    write(tmp_path / "v", ["New York", "a\nb"], draw(2), space="_")
    assert read(tmp_path / "v")[0] == ["New_York", "a_b"]
    with pytest.raises(ValueError, match="'a b' and 'a_b' both become 'a_b'"):
        write(tmp_path / "v", ["a b", "a_b"], draw(2), space="_")
    with pytest.raises(ValueError, match="must be characters that are not whitespace"):
        write(tmp_path / "v", ["a b", "c"], draw(2), space=" ")


@each_format
def test_lone_surrogates_and_wrong_counts_are_refused(tmp_path, name):
    write, _ = FORMATS[name]
    with pytest.raises(ValueError, match="row 1 is not valid Unicode"):
        write(tmp_path / "v", ["\ud800", "b"], draw(2))
    with pytest.raises(ValueError, match="3 keys for a matrix of shape"):
        write(tmp_path / "v", ["a", "b", "c"], draw(2))


@each_format
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, name):
    write, read = FORMATS[name]
    write(tmp_path / "v", ["old"], draw(1))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch, pytest.raises(OSError, match="pace left"):
        patch.setattr(word2vec, "zip", lambda *a, **k: _until_full(*a), raising=False)
        write(tmp_path / "v", ["new", "newer"], draw(2))
    assert read(tmp_path / "v")[0] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def _until_full(keys, rows):
    yield keys[0], rows[0]
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_first_key_may_begin_as_gzip_does(tmp_path):
    keys = ["\x1f\udc8bx", "\x1f\udc8b"]
    for write, read in FORMATS.values():
        write(tmp_path / "vectors", keys, draw(2, 3))
        assert read(tmp_path / "vectors")[0] == keys
