"""Word2vec and GloVe files, text and binary, to and from plain keys and a float32 matrix.

Nothing here knows `KeyedVectors`. The rest of `convert/` lies above `jaxembed/vectors.py`; this
file lies below it, because `KeyedVectors.load` and `.save` read and write these formats.
"""

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedIOBase

import numpy as np
from jaxtyping import Float, Float32

from jaxembed.atomic import write_atomically

PathLike = str | os.PathLike[str]

CHUNK_BYTES = 1 << 22
FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
HEADER = re.compile(rb"(\d+)[ \t]+(\d+)[ \t\r]*\n?")
WHITESPACE = re.compile("[ \t\n\r\v\f]")


def read_word2vec_text(
    path: PathLike, *, limit: int | None = None
) -> tuple[list[str], Float32[np.ndarray, "count dim"]]:
    """Reads word2vec's text format: a line `count dim`, then `key number ... number` a row.

    Rows are cut from the right, so keys that contain spaces survive. Bytes that are not UTF-8 are
    carried by `surrogateescape` and come back identically when written. Memory follows the rows
    that are there, not what the header says. Gzipped files are recognised by their first bytes.

    Args:
        path: The file.
        limit: Read only the first so many rows; None reads all.

    Returns:
        The keys in file order and their vectors. Keys can repeat, as in the file.

    Raises:
        ValueError: If the file is empty, cut short, holds more rows or another dimension than
            its header says, or something that is not a float32 number; the message names the row.
    """
    _check_limit(limit)
    with _open_to_read(path) as file:
        announced, dim = _read_header(file, path)
        wanted = announced if limit is None else min(announced, limit)
        rows = _read_text_rows(file, path, dim, wanted)
        _check_count(path, len(rows.keys), wanted, announced)
        if wanted == announced and _next_line(file):
            raise _too_many(path, announced)
        return rows.finish()


def read_glove_text(
    path: PathLike, *, limit: int | None = None
) -> tuple[list[str], Float32[np.ndarray, "count dim"]]:
    """Reads GloVe's text format: `key number ... number` a row, without a header.

    The first row says how many numbers each row has. All else is as in `read_word2vec_text`.

    Args:
        path: The file.
        limit: Read only the first so many rows; None reads all.

    Returns:
        The keys in file order and their vectors. Keys can repeat, as in the file.

    Raises:
        ValueError: If the file is empty, cut short inside a row, or holds something that is not a
            float32 number; the message names the row.
    """
    _check_limit(limit)
    with _open_to_read(path) as file:
        first = _next_line(file)
        if not first:
            raise ValueError(f"{path}: the file is empty; wanted `key number ... number` a row.")
        dim = _count_trailing_numbers(first)
        if dim == 0:
            raise ValueError(
                f"{path}: row 1 is {_excerpt(first)}; wanted a key and its numbers, as in GloVe's "
                "text format."
            )
        rows = _read_text_rows(file, path, dim, limit, first=first)
        return rows.finish()


def read_text(
    path: PathLike, *, limit: int | None = None
) -> tuple[list[str], Float32[np.ndarray, "count dim"]]:
    """Reads word2vec text if the first line is two whole numbers, and GloVe text otherwise.

    Args:
        path: The file.
        limit: Read only the first so many rows; None reads all.

    Returns:
        The keys in file order and their vectors.

    Raises:
        ValueError: As `read_word2vec_text` and `read_glove_text`.
    """
    with _open_to_read(path) as file:
        has_header = HEADER.fullmatch(file.readline()) is not None
    reader = read_word2vec_text if has_header else read_glove_text
    return reader(path, limit=limit)


def read_word2vec_binary(
    path: PathLike, *, limit: int | None = None
) -> tuple[list[str], Float32[np.ndarray, "count dim"]]:
    """Reads word2vec's binary format, with or without a newline after each row.

    A row is `key`, a space and `dim` little-endian float32. Bytes that are not UTF-8, memory and
    gzip are as in `read_word2vec_text`.

    Args:
        path: The file.
        limit: Read only the first so many rows; None reads all.

    Returns:
        The keys in file order and their vectors. Keys can repeat, as in the file.

    Raises:
        ValueError: If the file is empty, cut short, holds more rows than its header says, or is
            not in this format.
    """
    _check_limit(limit)
    with _open_to_read(path) as file:
        announced, dim = _read_header(file, path)
        wanted = announced if limit is None else min(announced, limit)
        row_bytes = 4 * dim
        _check_size(file, path, wanted, row_bytes, announced)
        rows, buffer, position = _Rows(dim), b"", 0
        while len(rows.keys) < wanted:
            space = buffer.find(b" ", position)
            if space < 0 or len(buffer) < space + 1 + row_bytes:
                more = file.read(max(CHUNK_BYTES, min(row_bytes, 1 << 26)))
                if not more:
                    _check_count(path, len(rows.keys), wanted, announced)
                buffer, position = buffer[position:] + more, 0
                continue
            key = buffer[position:space].lstrip(b"\n")
            rows.append(key, np.frombuffer(buffer, "<f4", dim, space + 1))
            position = space + 1 + row_bytes
        if wanted == announced and (buffer[position:] + file.read(64)).strip():
            raise _too_many(path, announced)
        return rows.finish()


def peek(path: PathLike, size: int) -> bytes:
    """Reads the first bytes of a file, unpacked if it is gzipped.

    Args:
        path: The file.
        size: How many bytes at most.

    Returns:
        The bytes.

    Raises:
        ValueError: If a gzipped file is damaged.
    """
    with _open_to_read(path) as file:
        return file.read(size)


def write_word2vec_text(
    path: PathLike,
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    *,
    space: str | None = None,
) -> None:
    """Writes word2vec's text format, which gensim, fastText, spaCy and MUSE read.

    Numbers are the shortest that read back to the same float32. The file appears whole or not at
    all, and is gzipped if its name ends in `.gz`.

    Args:
        path: The file; replaced if it exists.
        keys: A key for each row, without whitespace unless `space` is given.
        matrix: The vectors, written as float32.
        space: What stands for each whitespace character of a key.

    Raises:
        ValueError: If a key is empty, contains whitespace or cannot be encoded, if `space` makes
            two keys equal, or if there are not as many keys as rows.
    """
    _write_text(path, keys, matrix, space, b"%d %d\n" % np.shape(matrix))


def write_glove_text(
    path: PathLike,
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    *,
    space: str | None = None,
) -> None:
    """Writes GloVe's text format: word2vec's without the header.

    Args:
        path: The file; replaced if it exists.
        keys: A key for each row, without whitespace unless `space` is given.
        matrix: The vectors, written as float32.
        space: What stands for each whitespace character of a key.

    Raises:
        ValueError: As `write_word2vec_text`.
    """
    _write_text(path, keys, matrix, space, b"")


def write_word2vec_binary(
    path: PathLike,
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    *,
    space: str | None = None,
) -> None:
    """Writes word2vec's binary format, with a newline after each row as word2vec.c does.

    Args:
        path: The file; replaced if it exists.
        keys: A key for each row, without whitespace unless `space` is given.
        matrix: The vectors, written as float32.
        space: What stands for each whitespace character of a key.

    Raises:
        ValueError: As `write_word2vec_text`.
    """
    encoded = _encode_keys(path, keys, matrix, space)
    with _open_to_write(path) as file:
        file.write(b"%d %d\n" % matrix.shape)
        for key, row in zip(encoded, matrix, strict=True):
            file.write(b"%b %b\n" % (key, row.astype("<f4").tobytes()))


class _Rows:
    """Keys and a matrix that grows in place with the rows that really come."""

    def __init__(self, dim: int):
        self.keys: list[str] = []
        self.matrix = np.empty((0, dim), np.float32)

    def append(self, key: bytes, row) -> None:
        """Adds one row, an array or a list of float."""
        row_index = len(self.keys)
        if row_index == len(self.matrix):
            # realloc moves pages, not bytes: the peak stays near the matrix itself.
            capacity = row_index + row_index // 8 + 256
            self.matrix.resize((capacity, self.matrix.shape[1]), refcheck=False)
        self.matrix[row_index] = row
        self.keys.append(key.decode("utf-8", "surrogateescape"))

    def finish(self):
        """The keys and the matrix, cut to the rows that came."""
        self.matrix.resize((len(self.keys), self.matrix.shape[1]), refcheck=False)
        return self.keys, self.matrix


@contextlib.contextmanager
def _open_to_read(path: PathLike) -> Iterator[BufferedIOBase]:
    """Opens a plain or gzipped file; damage inside a gzip stream becomes a ValueError."""
    with open(path, "rb") as raw:
        # With deflate, gzip's only method: a first key may begin as gzip's two bytes do.
        if raw.peek(3)[:3] != b"\x1f\x8b\x08":
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is damaged or cut short ({error}); fetch it again."
            ) from error


@contextlib.contextmanager
def _open_to_write(path: PathLike) -> Iterator[BufferedIOBase]:
    """Opens a file that replaces `path` when all went well."""
    with write_atomically(path) as raw:
        if os.fspath(path).endswith(".gz"):
            # Without a time or name in it, the same vectors give the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
                yield file
        else:
            yield raw


def _read_header(file: BufferedIOBase, path: PathLike) -> tuple[int, int]:
    """The count and dimension on the first line."""
    line = file.readline(1000)
    match = HEADER.fullmatch(line)
    if match:
        count, dim = int(match[1]), int(match[2])
        if dim > 0:
            return count, dim
    if not line:
        found = "the file is empty"
    elif line.startswith(FASTTEXT_MAGIC):
        found = "this is a fastText model, not a word2vec binary file"
    else:
        found = f"the first line is {_excerpt(line)}"
    raise ValueError(f"{path}: {found}; wanted `count dim`, two whole numbers, as word2vec writes.")


def _read_text_rows(file, path, dim, wanted, first=None) -> _Rows:
    """Reads up to `wanted` rows of `dim` numbers; None reads to the end."""
    rows = _Rows(dim)
    while wanted is None or len(rows.keys) < wanted:
        # Blank lines are tolerated at the end only: a row is never empty.
        line = first if first is not None else file.readline()
        first = None
        if not line.strip():
            if _next_line(file):
                raise ValueError(
                    f"{path}: row {len(rows.keys) + 1} is empty, but more rows follow."
                )
            break
        key, *numbers = line.rsplit(None, dim)
        values = _parse_numbers(numbers, path, len(rows.keys) + 1, dim, line)
        try:
            with np.errstate(over="raise"):
                rows.append(key, values)
        except FloatingPointError as error:
            raise ValueError(
                f"{path}: row {len(rows.keys) + 1} holds a number beyond float32: {_excerpt(line)}."
            ) from error
    # Where the rows are longer than the header says, the surplus ends up in every key.
    if rows.keys and all(_ends_in_number(key) for key in rows.keys):
        raise ValueError(
            f"{path}: rows have more than the {dim} numbers announced: the first key would be "
            f"{_excerpt(rows.keys[0])}. Correct the header."
        )
    return rows


def _parse_numbers(numbers, path, row, dim, line) -> list[float]:
    """The numbers of one row, all of them within float32."""
    if len(numbers) != dim:
        raise ValueError(
            f"{path}: row {row} holds {len(numbers)} numbers after its key, wanted {dim}: the file "
            f"is cut short or its header is wrong. The row is {_excerpt(line)}."
        )
    try:
        values = list(map(float, numbers))
    except ValueError:
        values = None
    # Python reads 1_000 as a number; no other program does.
    if values is None or (b"_" in line and any(b"_" in number for number in numbers)):
        wrong = next(number for number in numbers if not _is_number(number))
        raise ValueError(f"{path}: row {row} holds {_excerpt(wrong)} where a number is wanted.")
    return values


def _is_number(field: bytes | str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return (b"_" if isinstance(field, bytes) else "_") not in field


def _ends_in_number(key: str) -> bool:
    fields = WHITESPACE.split(key)
    return len(fields) > 1 and _is_number(fields[-1])


def _count_trailing_numbers(line: bytes) -> int:
    """How many fields at the end of a row are numbers; the first field is the key."""
    count = 0
    for field in reversed(line.split()[1:]):
        if not _is_number(field):
            break
        count += 1
    return count


def _next_line(file: BufferedIOBase) -> bytes:
    """The next line that is not blank, or nothing at the end."""
    return next((line for line in file if line.strip()), b"")


def _write_text(path, keys, matrix, space, header: bytes) -> None:
    """Writes a header and a text row for each key."""
    encoded = _encode_keys(path, keys, matrix, space)
    with _open_to_write(path) as file:
        file.write(header)
        for key, row in zip(encoded, matrix, strict=True):
            # numpy's text of a float32 is the shortest that reads back, of at most 15 characters.
            numbers = row.astype(np.float32, copy=False).astype("S16").tolist()
            file.write(b"%b %b\n" % (key, b" ".join(numbers)))


def _encode_keys(path, keys, matrix, space) -> list[bytes]:
    """The bytes of each key; raises before anything is written."""
    if np.ndim(matrix) != 2 or len(keys) != len(matrix):
        raise ValueError(
            f"{path}: {len(keys)} keys for a matrix of shape {np.shape(matrix)}: "
            "wanted one row a key."
        )
    if matrix.shape[1] == 0:
        raise ValueError(f"{path}: the vectors have 0 dimensions; these formats need at least 1.")
    if space is not None:
        keys = _replace_space(path, keys, space)
    encoded = []
    for row, key in enumerate(keys, 1):
        if not key or WHITESPACE.search(key):
            raise ValueError(
                f"{path}: key {key!r} of row {row} is empty or contains whitespace, which this "
                "format uses as separator. Save as .safetensors, or give `space` a replacement "
                "such as '_'."
            )
        try:
            encoded.append(key.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{path}: key {key!r} of row {row} is not valid Unicode ({error.reason}): "
                "rename it."
            ) from error
    return encoded


def _replace_space(path, keys, space: str) -> list[str]:
    """The keys with each whitespace character replaced; they must not become equal."""
    if not space or WHITESPACE.search(space):
        raise ValueError(f"space is {space!r}: it must be characters that are not whitespace.")
    owner: dict[str, str] = {}
    for key in keys:
        replaced = WHITESPACE.sub(lambda _: space, key)
        if owner.setdefault(replaced, key) != key:
            raise ValueError(
                f"{path}: keys {owner[replaced]!r} and {key!r} both become {replaced!r} with "
                f"space={space!r}: choose another replacement."
            )
    return [WHITESPACE.sub(lambda _: space, key) for key in keys]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: it must be at least 1, or None to read all rows.")


def _check_count(path, found: int, wanted: int, announced: int) -> None:
    if found < wanted:
        raise ValueError(
            f"{path}: the file ends in row {found + 1}, but its header announces {announced} rows: "
            "it is cut short or its header is wrong."
        )


def _check_size(file, path, wanted: int, row_bytes: int, announced: int) -> None:
    """Refuses a binary header that the size of a plain file contradicts."""
    if isinstance(file, gzip.GzipFile):
        return
    there = os.fstat(file.fileno()).st_size - file.tell()
    if wanted * (row_bytes + 1) > there:
        raise ValueError(
            f"{path}: the header announces {announced} rows of {row_bytes // 4} numbers, but the "
            f"{there} bytes that follow end in row {there // (row_bytes + 1) + 1}: the file is cut "
            "short or its header is wrong."
        )


def _too_many(path, announced: int) -> ValueError:
    return ValueError(
        f"{path}: more follows after the {announced} rows that the header announces: correct the "
        f"header, or read with limit={announced}."
    )


def _excerpt(text: bytes | str) -> str:
    """The start of a line or field for a message."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    text = text.rstrip("\r\n")
    return repr(text if len(text) <= 60 else text[:57] + "...")
