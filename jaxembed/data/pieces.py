"""A text as the pieces of a tokenizer, with its sentences and documents: what BERT learns from."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from jaxembed.data.text import Source, read_sentences
from jaxembed.data.tokenizer import (
    TextTokenizer,
    load_tokenizer,
    train_byte_pairs,
    train_wordpiece,
)

_AT_ONCE = 2000  # sentences


@dataclasses.dataclass(frozen=True)
class PieceCorpus:
    """Which text is read, and how it becomes sequences of pieces.

    Attributes:
        source: A path, the name of an embedded data set, or `tfds:NAME`; see `read_sentences`. A
            line is a sentence, an empty line ends a document.
        tokenizer: "wordpiece" or "bytes" learns one from the text; otherwise the path of a
            `tokenizer.json`, a `vocab.txt` or a folder with either.
        vocab_size: Most pieces of a learned tokenizer.
        lowercase: Whether a learned tokenizer, or one of a bare vocab.txt, lower-cases.
        length: Ids a sequence, specials among them.
        held_out: Share of the text that is kept to judge by.
    """

    source: str
    tokenizer: str = "wordpiece"
    vocab_size: int = 8000
    lowercase: bool = True
    length: int = 128
    held_out: float = 0.02

    def __post_init__(self) -> None:
        if self.length < 8:
            raise ValueError(f"length is {self.length}: give 8 or more.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: give more than 0 and less than 1.")


class Pieces(NamedTuple):
    """A text as ids, one sentence behind the other, without specials.

    Attributes:
        ids: All pieces.
        begins: Whether a piece begins a word.
        sentences: Where each sentence begins in `ids`; the last entry is their number.
        documents: Where each document begins in `sentences`; the last entry is their number.
    """

    ids: Int32[np.ndarray, "pieces"]
    begins: Bool[np.ndarray, "pieces"]
    sentences: Int32[np.ndarray, "bounds"]
    documents: Int32[np.ndarray, "limits"]

    def sentence(self, number: int) -> Int32[np.ndarray, "length"]:
        """The ids of a sentence."""
        return self.ids[self.sentences[number] : self.sentences[number + 1]]

    def fingerprint(self) -> str:
        """The sha256 of it all, in hexadecimal."""
        digest = hashlib.sha256()
        for part in self:
            digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(b"|")
        return digest.hexdigest()


def read_lines_of(source: Source) -> Iterator[str]:
    """The sentences of a text, empty ones between documents; see `read_sentences`.

    An endless line comes in pieces, which here are sentences.
    """
    for tokens, ends_sentence in read_sentences(source):
        if tokens or ends_sentence:
            yield " ".join(tokens)


def make_tokenizer(corpus: PieceCorpus, lines: Iterable[str]) -> TextTokenizer:
    """The tokenizer that a corpus asks for: loaded, or learned from lines."""
    if corpus.tokenizer == "wordpiece":
        return train_wordpiece(lines, corpus.vocab_size, lowercase=corpus.lowercase)
    if corpus.tokenizer == "bytes":
        return train_byte_pairs(lines, corpus.vocab_size, lowercase=corpus.lowercase)
    return load_tokenizer(corpus.tokenizer, lowercase=corpus.lowercase)


def encode_pieces(lines: Iterable[str], tokenizer: TextTokenizer, *, longest: int) -> Pieces:
    """Takes a text into pieces.

    Args:
        lines: Sentences; an empty one ends a document.
        tokenizer: What takes them apart.
        longest: Most pieces of a sentence; a longer one becomes several.

    Returns:
        The text.

    Raises:
        ValueError: If there is no piece in it.
    """
    ids, begins, lengths, documents = [], [], [], [0]
    lines = iter(lines)
    while part := list(itertools.islice(lines, _AT_ONCE)):
        for encoded in tokenizer.encode(part):
            inside = encoded.words >= 0
            pieces, words = encoded.ids[inside], encoded.words[inside]
            ids.append(pieces)
            begins.append(np.diff(words, prepend=-1) != 0)
            lengths += [len(cut) for cut in np.split(pieces, range(longest, len(pieces), longest))]
            if not len(pieces):
                lengths.pop()
                documents.append(len(lengths))
    documents.append(len(lengths))
    if not lengths:
        raise ValueError("the text has no words at all: give a text with words.")
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return Pieces(
        np.concatenate(ids), np.concatenate(begins), bounds, np.unique(np.int32(documents))
    )


def split_documents(text: Pieces, share: float, seed: int) -> tuple[Pieces, Pieces]:
    """Keeps documents apart to judge by.

    A text without empty lines is one document; it is first cut into stretches of 50 sentences.

    Args:
        text: The whole.
        share: Of the documents to keep apart; at least one is.
        seed: Decides which.

    Returns:
        The text to learn from, and that kept apart.

    Raises:
        ValueError: If there are not two documents or stretches.
    """
    count = len(text.sentences) - 1
    documents = text.documents
    if len(documents) == 2:
        documents = np.append(np.arange(0, count, 50), count).astype(np.int32)
    number = len(documents) - 1
    if number < 2:
        raise ValueError(f"a text of {count} sentences leaves none to judge by: give more text.")
    kept = np.zeros(number, bool)
    kept[np.random.default_rng(seed).permutation(number)[: max(1, round(share * number))]] = True
    if kept.all():
        kept[0] = False
    return _take(text, documents, ~kept), _take(text, documents, kept)


def _take(text: Pieces, documents: np.ndarray, chosen: np.ndarray) -> Pieces:
    """Some documents of a text."""
    of_sentence = np.repeat(chosen, np.diff(documents))
    lengths = np.diff(text.sentences)
    of_piece = np.repeat(of_sentence, lengths)
    bounds = np.concatenate([[0], np.cumsum(lengths[of_sentence])])
    limits = np.concatenate([[0], np.cumsum(np.diff(documents)[chosen])])
    return Pieces(
        text.ids[of_piece],
        text.begins[of_piece],
        bounds.astype(np.int32),
        limits.astype(np.int32),
    )
