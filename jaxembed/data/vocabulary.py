"""A vocabulary: words in a fixed order with their counts."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from jaxembed.atomic import write_atomically
from jaxembed.data.names import nearest_spelling

# Two such halves would be read back as one character.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and how often each occurs; the id of a word is its place.

    Attributes:
        words: Distinct words.
        counts: int64 [vocab], occurrences of each word.
    """

    words: tuple[str, ...]
    counts: np.ndarray

    def __post_init__(self) -> None:
        counts = np.array(self.counts)  # a copy, so that nobody else can write to it
        if counts.size == 0:
            counts = counts.astype(np.int64)
        if counts.dtype.kind not in "iu":
            raise TypeError(f"counts are {counts.dtype}, but whole numbers are wanted.")
        if counts.shape != (len(self.words),):
            raise ValueError(
                f"{len(self.words)} words but counts of shape {counts.shape}: "
                "there must be one count a word."
            )
        if counts.size and counts.min() < 0:
            raise ValueError(f"a count is {counts.min()}: counts must not be negative.")
        if len(set(self.words)) != len(self.words):
            seen: set[str] = set()
            twice = next(word for word in self.words if word in seen or seen.add(word))
            raise ValueError(f"the word {twice!r} is there twice: words must be distinct.")
        counts = counts.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.words == other.words and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash(self.words)

    def __getitem__(self, word: str) -> int:
        """Returns the id of a word; KeyError, naming close spellings, if it has none."""
        try:
            return self.index[word]
        except KeyError:
            raise KeyError(
                f"{word!r} is not among the {len(self)} words of the vocabulary."
                f"{nearest_spelling(word, self.words)}"
            ) from None

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The id of each word."""
        return {word: index for index, word in enumerate(self.words)}

    def to_json(self) -> bytes:
        """Returns the vocabulary as UTF-8 JSON; equal vocabularies give equal bytes.

        Returns:
            A JSON object with lists `words` and `counts`.

        Raises:
            ValueError: If a word holds two surrogates that would be read back as one character.
        """
        broken = [word for word in self.words if _SURROGATE_PAIR.search(word)]
        if broken:
            raise ValueError(
                f"the word {broken[0]!r} holds a pair of surrogates, which no UTF-8 file can: "
                "decode the text properly."
            )
        content = {"words": self.words, "counts": self.counts.tolist()}
        text = json.dumps(content, ensure_ascii=False, indent=0)
        # A lone surrogate has no UTF-8, but its backslash form is just JSON's escape for it.
        return text.encode("utf-8", errors="backslashreplace")

    @classmethod
    def from_json(cls, content: bytes | str, where: str = "the JSON text") -> Vocabulary:
        """Reads what `to_json` wrote.

        Args:
            content: The JSON text.
            where: What to call it in an error.

        Returns:
            The vocabulary.

        Raises:
            ValueError: If the content is not a vocabulary.
        """
        try:
            parsed = json.loads(content)
            words, counts = parsed["words"], parsed["counts"]
            if not all(type(word) is str for word in words):
                raise TypeError("`words` must be strings")
            if not all(type(count) is int for count in counts):
                raise TypeError("`counts` must be whole numbers")
            return cls(tuple(words), np.array(counts, np.int64))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{where} is not a vocabulary ({error}): a JSON object with lists `words` and "
                "`counts` of the same length is wanted; write it with Vocabulary.save."
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary as UTF-8 JSON, whole or not at all.

        Args:
            path: The file to write.

        Raises:
            ValueError: If a word cannot be written.
            OSError: If the disk is full or the folder not writable.
        """
        content = self.to_json()
        with write_atomically(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote.

        Args:
            path: The file to read.

        Returns:
            The vocabulary.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a vocabulary.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no vocabulary at {path}: give a file that `save` wrote.")
        return cls.from_json(path.read_bytes(), str(path))


def make_vocabulary(
    counts: Mapping[str, int], *, min_count: int = 1, max_vocab: int | None = None
) -> Vocabulary:
    """Makes a vocabulary of counted words: by falling count, then by code points.

    Args:
        counts: Occurrences of each word, in any order.
        min_count: Words that occur less often are left out; at least 1.
        max_vocab: Keep at most this many words, the first ones in order; None keeps all.

    Returns:
        The vocabulary, which may be empty.

    Raises:
        ValueError: If `min_count` or `max_vocab` is under 1.
    """
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}: give 1 to keep every word, or more.")
    if max_vocab is not None and max_vocab < 1:
        raise ValueError(f"max_vocab is {max_vocab}: give at least 1, or None for no limit.")
    kept = [(word, count) for word, count in counts.items() if count >= min_count]
    kept.sort(key=lambda item: (-item[1], item[0]))
    kept = kept[:max_vocab]
    return Vocabulary(
        tuple(word for word, _ in kept), np.array([count for _, count in kept], np.int64)
    )
