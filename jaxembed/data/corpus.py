"""A text as a file of word ids: one pass over the text, then random access in blocks."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from jaxembed.atomic import scratch_file, write_atomically
from jaxembed.data.text import Source, read_sentences
from jaxembed.data.vocabulary import Vocabulary, make_vocabulary

END = -1  # what stands between two sentences
_DROPPED = -2
_ID = np.dtype("<i4")
_FLUSH = 1 << 16  # tokens turned into ids at once
_CHUNK = 1 << 20  # ids read at once


@dataclasses.dataclass(frozen=True)
class TextCorpus:
    """Which text is read, and into which words it is taken apart.

    Attributes:
        source: A path, the name of an embedded data set, or `tfds:NAME`; see `read_sentences`.
        min_count: Words that occur less often are dropped.
        max_vocab: Keep at most this many of the most frequent words; None keeps all.
        tokenizer: Path to a `tokenizer.json`, or None for words between white space.
        lowercase: Lower-case the text first.
    """

    source: str
    min_count: int = 5
    max_vocab: int | None = None
    tokenizer: str | None = None
    lowercase: bool = False


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text as ids of a vocabulary's words, in a file of little-endian int32.

    -1 stands between two sentences: never first, last or twice in a row.

    Attributes:
        path: The file of ids; `path` + ".json" holds all else.
        vocabulary: The words behind the ids.
        total_words: Words of the text, those outside the vocabulary included.
        kept_words: Ids of words in the file.
        sentences: Sentences with at least one kept word.
        fingerprint: sha256 of vocabulary and ids, in hexadecimal.
    """

    path: pathlib.Path
    vocabulary: Vocabulary
    total_words: int
    kept_words: int
    sentences: int
    fingerprint: str

    def __len__(self) -> int:
        """The number of ids in the file, the -1 between sentences included."""
        return self.kept_words + self.sentences - 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads a slice of the ids.

        Args:
            start: First place, from 0.
            stop: Place after the last; cut at the end of the file.

        Returns:
            int32 [stop - start], a copy in ordinary memory.

        Raises:
            ValueError: If the file is shorter than it was when the corpus was opened.
        """
        stop = min(stop, len(self))
        if stop <= start:
            return np.zeros(0, np.int32)
        # Mapped for this read only, so pages that were read do not add up.
        offset = start * _ID.itemsize
        mapped = np.memmap(self.path, _ID, mode="r", offset=offset, shape=(stop - start,))
        return np.array(mapped, np.int32)

    def blocks(self, block_size: int) -> CorpusBlocks:
        """Cuts the ids into blocks of equal size.

        Args:
            block_size: Ids a block.

        Returns:
            A random access source of the blocks.

        Raises:
            ValueError: If `block_size` is under 1.
        """
        return CorpusBlocks(self, block_size)

    def save(self) -> None:
        """Writes the JSON file beside the ids, from which `open_corpus` opens the corpus.

        Raises:
            OSError: If the disk is full or the folder not writable.
        """
        content = {
            "format": "jaxembed corpus 1",
            "total_words": self.total_words,
            "kept_words": self.kept_words,
            "sentences": self.sentences,
            "fingerprint": self.fingerprint,
        }
        # The vocabulary goes in as it is hashed: its own JSON text.
        head = json.dumps(content, indent=0).encode()[:-2]
        with write_atomically(_description(self.path)) as file:
            file.write(head + b',\n"vocabulary": ' + self.vocabulary.to_json() + b"\n}\n")


@dataclasses.dataclass(frozen=True)
class CorpusBlocks:
    """Contiguous slices of a corpus, to be read at random.

    An element is a dict of `tokens` (int32 [block_size], -1 between sentences and after the end
    of the text), `words` (int32, how many of them are words) and `position` (int32, its number).

    Attributes:
        corpus: What is cut.
        block_size: Ids a block.
    """

    corpus: Corpus
    block_size: int

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}: give 1 or more.")

    def __len__(self) -> int:
        return -(-len(self.corpus) // self.block_size)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | np.int32]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}.")
        index = int(index) % len(self)
        ids = self.corpus.read(index * self.block_size, (index + 1) * self.block_size)
        tokens = np.full(self.block_size, END, np.int32)
        tokens[: len(ids)] = ids
        return {
            "tokens": tokens,
            "words": np.int32(np.count_nonzero(tokens >= 0)),
            "position": np.int32(index),
        }


def encode_corpus(
    source: Source,
    path: str | os.PathLike[str],
    *,
    min_count: int = 5,
    max_vocab: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    lowercase: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Corpus:
    """Reads a text once and writes it as ids.

    Words outside the vocabulary are dropped, so their neighbours become neighbours. Memory grows
    with the number of distinct words, not with the text; the disk holds the ids of the text
    twice for a moment.

    Args:
        source: The text, as for `read_sentences`.
        path: The file of ids to write; `path` + ".json" is written beside it.
        min_count: Words that occur less often are dropped; at least 1.
        max_vocab: Keep at most this many of the most frequent words; None keeps all.
        tokenizer: Path to a `tokenizer.json`, or None for words between white space.
        lowercase: Lower-case the text first.
        progress: Called now and then with the number of words read so far.

    Returns:
        The corpus.

    Raises:
        ValueError: If the text has no words, or none often enough, or cannot be read.
        FileNotFoundError: If there is no such source.
        TypeError: If the source is of a wrong type.
        OSError: If the disk is full; nothing half-written is left.
    """
    path = pathlib.Path(path)
    make_vocabulary({}, min_count=min_count, max_vocab=max_vocab)  # complain before reading
    pieces = read_sentences(source, tokenizer=tokenizer, lowercase=lowercase)
    with scratch_file(path) as draft:
        words, counts = _write_draft(pieces, draft, progress)
        vocabulary = _choose_words(words, counts, min_count, max_vocab)
        final_ids = _final_ids(words, vocabulary)
        del words
        draft.seek(0)
        digest = hashlib.sha256(vocabulary.to_json())
        ends = 0
        with write_atomically(path) as file:
            for ids in _translate(draft, final_ids):
                ends += int(np.count_nonzero(ids == END))
                digest.update(ids.tobytes())
                file.write(ids.tobytes())
        # An old description would describe another file.
        _description(path).unlink(missing_ok=True)
    corpus = Corpus(
        path=path,
        vocabulary=vocabulary,
        total_words=int(counts.sum()),
        kept_words=int(vocabulary.counts.sum()),
        sentences=ends + 1,
        fingerprint=digest.hexdigest(),
    )
    corpus.save()
    return corpus


def open_corpus(path: str | os.PathLike[str], *, verify: bool = True) -> Corpus:
    """Opens what `encode_corpus` wrote.

    Args:
        path: The file of ids.
        verify: Also compare the fingerprint, which reads the whole file once.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: If the file or its description is missing.
        ValueError: If the description is not one, or the file is not the one described.
    """
    path = pathlib.Path(path)
    description = _description(path)
    for needed in (path, description):
        if not needed.is_file():
            raise FileNotFoundError(f"no file {needed}: encode the text again.")
    try:
        content = json.loads(description.read_bytes())
        if content.pop("format") != "jaxembed corpus 1":
            raise ValueError("another format")
        vocabulary = Vocabulary.from_json(json.dumps(content.pop("vocabulary")), str(description))
        names = {field.name for field in dataclasses.fields(Corpus)} - {"path", "vocabulary"}
        if set(content) != names or not all(
            type(content[name]) is (str if name == "fingerprint" else int) for name in names
        ):
            raise ValueError(f"its fields must be {sorted(names)}")
        corpus = Corpus(path=path, vocabulary=vocabulary, **content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{description} does not describe a corpus ({error}): encode the text again."
        ) from error
    size, wanted = path.stat().st_size, len(corpus) * _ID.itemsize
    if size != wanted:
        raise ValueError(
            f"{path} has {size:,} bytes, but {wanted:,} were written: encode the text again."
        )
    if verify and _fingerprint(corpus) != corpus.fingerprint:
        raise ValueError(
            f"{path} or the vocabulary in {description} was changed after it was written (the "
            "fingerprint differs): encode the text again."
        )
    return corpus


def _description(path: pathlib.Path) -> pathlib.Path:
    """The JSON file beside the ids."""
    return path.with_name(path.name + ".json")


def _fingerprint(corpus: Corpus) -> str:
    """The sha256 of vocabulary and ids."""
    digest = hashlib.sha256(corpus.vocabulary.to_json())
    with open(corpus.path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_draft(
    pieces: Iterator[tuple[list[str], bool]],
    file: BinaryIO,
    progress: Callable[[int], None] | None,
) -> tuple[list[str], np.ndarray]:
    """Writes ids in order of first sight, 0 for a sentence's end; returns words and counts."""
    # A new word's id is made by the dict itself, so the loop over tokens runs in C.
    ids: dict[str | None, int] = collections.defaultdict(itertools.count().__next__)
    end = ids[None]
    counts = np.zeros(1, np.int64)
    buffered: list[np.ndarray] = []

    def flush() -> None:
        nonlocal counts
        encoded = np.concatenate([*buffered, np.zeros(0, _ID)])
        buffered.clear()
        file.write(encoded.tobytes())
        counts = np.pad(counts, (0, len(ids) - len(counts)))
        counts += np.bincount(encoded, minlength=len(ids))
        if progress is not None:
            progress(int(counts[end + 1 :].sum()))

    for tokens in _gather(pieces):
        buffered.append(np.fromiter(map(ids.__getitem__, tokens), _ID, len(tokens)))
        if sum(map(len, buffered)) >= _CHUNK:
            flush()
    flush()
    words = [word for word in ids if word is not None]
    return words, counts[end + 1 :]


def _gather(pieces: Iterator[tuple[list[str], bool]]) -> Iterator[list[str | None]]:
    """Tokens in lists of a good size, None for a sentence's end."""
    gathered: list[str | None] = []
    for tokens, ends_sentence in pieces:
        gathered.extend(tokens)
        if ends_sentence:
            gathered.append(None)
        if len(gathered) >= _FLUSH:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def _choose_words(
    words: list[str], counts: np.ndarray, min_count: int, max_vocab: int | None
) -> Vocabulary:
    """The vocabulary of the words that occur often enough."""
    if not words:
        raise ValueError("the text has no words at all: give a text with words.")
    often = np.flatnonzero(counts >= min_count)
    if not often.size:
        most = int(counts.argmax())
        raise ValueError(
            f"no word occurs {min_count} times; the most frequent, {words[most]!r}, occurs "
            f"{counts[most]} times: lower min_count, or give more text."
        )
    chosen = {words[index]: int(counts[index]) for index in often}
    return make_vocabulary(chosen, min_count=min_count, max_vocab=max_vocab)


def _final_ids(words: list[str], vocabulary: Vocabulary) -> np.ndarray:
    """The final id of each draft id."""
    get = vocabulary.index.get
    final = np.empty(len(words) + 1, _ID)
    final[0] = END
    final[1:] = np.fromiter((get(word, _DROPPED) for word in words), _ID, len(words))
    return final


def _translate(file: BinaryIO, final_ids: np.ndarray) -> Iterator[np.ndarray]:
    """Draft ids as final ids, without dropped words and ends of empty sentences."""
    previous = END  # as if: so no end comes first
    owed = False  # an end is written only once a word follows it
    while data := file.read(_CHUNK * _ID.itemsize):
        ids = final_ids[np.frombuffer(data, _ID)]
        ids = ids[ids != _DROPPED]
        before = np.concatenate([[previous], ids[:-1]])
        ids = ids[(ids != END) | (before != END)]
        if not ids.size:
            continue
        if owed:
            ids = np.concatenate([[END], ids])
        owed = bool(ids[-1] == END)
        previous = int(ids[-1])
        yield (ids[:-1] if owed else ids).astype(_ID)
