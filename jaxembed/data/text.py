"""Any source of text as a stream of tokens, in memory that does not grow with the text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from jaxembed.data.names import EMBEDDED, find_embedded, nearest_spelling
from jaxembed.data.tfds_source import PREFIX, read_tfds_text

Source = str | os.PathLike[str] | Iterable[str | Sequence[str]]
Piece = tuple[list[str], bool]

_CHUNK = 1 << 20  # bytes read at once; also the longest word, in characters
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


def read_sentences(
    source: Source,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    lowercase: bool = False,
) -> Iterator[Piece]:
    """Streams a text as pieces of sentences.

    A line is a sentence. A line that is longer than about a million characters comes in several
    pieces, cut between words, so even a text of one endless line is never in memory whole.

    Args:
        source: A name of an embedded text, `tfds:NAME[/CONFIG][:SPLIT]`, a path to a UTF-8 file
            (plain, .gz, .xz or .bz2) or to a folder of such files (read in the order of their
            paths, hidden ones left out), or an iterable of sentences, each a string or a
            list of tokens. A name is not taken for a path; write `./docstrings` for the file.
        tokenizer: Path to a Hugging Face `tokenizer.json`, whose subwords then are the tokens;
            None splits at white space.
        lowercase: Lower-case the text first; otherwise it is taken as it is.

    Returns:
        An iterator over pieces: tokens, possibly none, and whether the sentence ends after them.

    Raises:
        FileNotFoundError: If `source` is neither a known name nor an existing path.
        ValueError: If a file is empty, not UTF-8 text, damaged or unreadable (as it is read).
        TypeError: If `source`, or (as it is read) a sentence in it, is of another type.
    """
    split = str.split if tokenizer is None else _load_tokenizer(tokenizer)
    return _tokenize(_read_texts(source), split, lowercase)


def _tokenize(
    texts: Iterator[tuple[str | list[str], bool]],
    split: Callable[[str], list[str]],
    lowercase: bool,
) -> Iterator[Piece]:
    """Pieces as tokens."""
    for text, ends_sentence in texts:
        if isinstance(text, str):
            yield split(text.lower() if lowercase else text), ends_sentence
        elif split is str.split:  # tokens may hold spaces
            yield ([token.lower() for token in text] if lowercase else text), ends_sentence
        else:
            yield split(" ".join(text).lower() if lowercase else " ".join(text)), ends_sentence


def _read_texts(source: Source) -> Iterator[tuple[str | list[str], bool]]:
    """Pieces of sentences, as text or, where the source has them so, as tokens."""
    if isinstance(source, str):
        if source in EMBEDDED:
            return _check_sentences(find_embedded(source, "text").load())
        if source.startswith(PREFIX):
            return _split_lines(read_tfds_text(source))
        if not os.path.exists(source):
            known = ", ".join([*sorted(EMBEDDED), f"{PREFIX}NAME"])
            raise FileNotFoundError(
                f"{source!r} is neither an embedded data set nor an existing path. Known names: "
                f"{known}.{nearest_spelling(source, EMBEDDED)}"
            )
    if isinstance(source, (str, os.PathLike)):
        if not os.path.exists(source):
            raise FileNotFoundError(f"no file or folder at {source}: check the path.")
        return _read_path(pathlib.Path(source))
    if isinstance(source, (bytes, bytearray)) or not isinstance(source, Iterable):
        raise TypeError(
            f"the text source is of type {type(source).__name__}: give a name, a path or an "
            "iterable of sentences."
        )
    return _check_sentences(source)


def _check_sentences(sentences: Iterable[Any]) -> Iterator[tuple[str | list[str], bool]]:
    """The sentences of an iterable, each looked at as it comes."""
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            yield sentence, True
        elif not isinstance(sentence, (list, tuple)):
            raise TypeError(
                f"sentence {number} is of type {type(sentence).__name__}: give a str, or a list "
                "of tokens."
            )
        elif not all(isinstance(token, str) for token in sentence):
            wrong = next(token for token in sentence if not isinstance(token, str))
            raise TypeError(
                f"sentence {number} holds a token of type {type(wrong).__name__} ({wrong!r}): "
                "tokens must be str; decode bytes first."
            )
        elif "" in sentence:
            raise ValueError(f"sentence {number} holds an empty token: leave empty tokens out.")
        else:
            yield list(sentence), True


def _split_lines(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The lines of many short texts."""
    for text in texts:
        for line in text.split("\n"):
            yield line, True


def _read_path(path: pathlib.Path) -> Iterator[tuple[str, bool]]:
    """Pieces of the lines of a file, or of all files in a folder."""
    if not path.is_dir():
        if not (yield from _read_file(path)):
            raise ValueError(f"{path} is empty: give a file with text.")
        return
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    ]
    size = 0
    for file in files:
        size += yield from _read_file(file)
    if not size:
        raise ValueError(f"no text in the {len(files)} files of folder {path}: give one with text.")


def _read_file(path: pathlib.Path) -> Generator[tuple[str, bool], None, int]:
    """Pieces of the lines of one file; the value of the generator is its length in bytes."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        file = opener(path, "rb")
    except OSError as error:
        raise ValueError(f"cannot open {path} ({error}): make it readable.") from error
    with file:
        size = 0
        rest = ""  # the line that goes on in the next chunk
        for text, size in _decode(file, path):
            lines = (rest + text).split("\n")
            rest = lines.pop()
            if len(rest) >= _CHUNK and rest.isspace():
                rest = " "
            for line in lines:
                yield line, True
            if len(rest) >= _CHUNK:
                cut = len(rest.rstrip())
                if cut == len(rest):  # inside a word
                    cut = len(rest) - len(rest.split()[-1])
                if cut == 0:
                    raise ValueError(
                        f"{path}: a word of more than {_CHUNK:,} characters ends after byte "
                        f"{size:,}: that is no text in words; split it first."
                    )
                yield rest[:cut], False
                rest = rest[cut:]
        if rest:
            yield rest, True
    return size


def _decode(file: io.BufferedIOBase, path: pathlib.Path) -> Iterator[tuple[str, int]]:
    """The file's text in chunks, each with the number of (unpacked) bytes read so far."""
    size, pending = 0, b""
    while True:
        try:
            chunk = file.read(_CHUNK)
        except _BROKEN as error:
            raise ValueError(
                f"{path} is damaged, cut short or unreadable after {size:,} bytes of its content "
                f"({error}): get it again."
            ) from error
        data = pending + chunk
        start = size - len(pending)
        size += len(chunk)
        if (zero := data.find(b"\0")) >= 0:
            raise ValueError(
                f"{path} holds a NUL byte at offset {start + zero:,}, so it is not UTF-8 text: "
                "give a text file, or convert it to UTF-8."
            )
        try:
            text, used = codecs.utf_8_decode(data, "strict", not chunk)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset "
                f"{start + error.start:,} ({error.reason}); convert it to UTF-8."
            ) from error
        pending = data[used:]
        if start == 0:
            text = text.removeprefix("\ufeff")
        yield text, size
        if not chunk:
            return


def _load_tokenizer(path: str | os.PathLike[str]) -> Callable[[str], list[str]]:
    """A function that splits a text by a Hugging Face tokenizer."""
    import tokenizers

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no tokenizer at {os.fspath(path)}: give a tokenizer.json.")
    try:
        model = tokenizers.Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{os.fspath(path)} is not a Hugging Face tokenizer ({error}): give a tokenizer.json."
        ) from error
    # A stored sentence length would drop the ends of long lines silently.
    model.no_truncation()
    model.no_padding()
    return lambda text: model.encode(text, add_special_tokens=False).tokens
