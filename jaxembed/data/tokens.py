"""Vocabularies of sequence models: symbols, words or subwords to ids and back."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

PAD, BOS, EOS, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
Unit = Literal["symbols", "words", "subwords"]


@dataclasses.dataclass(frozen=True)
class TokenVocabulary:
    """Tokens in a fixed order: `<pad>`, `<bos>`, `<eos>`, `<unk>`, then the most frequent first.

    Attributes:
        unit: "symbols": every character is a token; "words": what white space separates.
        tokens: Distinct tokens, specials among them.
        lowercase: Whether a line is lower-cased first.
    """

    unit: str
    tokens: tuple[str, ...]
    lowercase: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens) if index >= len(SPECIALS)}

    def split(self, line: str) -> list[str]:
        """The tokens of a line."""
        line = line.lower() if self.lowercase else line
        return list(line) if self.unit == "symbols" else line.split()

    def encode(self, line: str) -> list[int]:
        """The ids of a line's tokens, without BOS and EOS; `UNKNOWN` where there is none."""
        return [self._ids.get(token, UNKNOWN) for token in self.split(line)]

    def decode(self, ids: Iterable[int]) -> str:
        """The line of some ids; specials but `<unk>` are left out."""
        kept = [self.tokens[index] for index in ids if index >= UNKNOWN]
        return ("" if self.unit == "symbols" else " ").join(kept)

    def unknown(self, line: str) -> list[str]:
        """The distinct tokens of a line that have no id, in order."""
        return list(dict.fromkeys(token for token in self.split(line) if token not in self._ids))

    def to_json(self) -> str:
        """The vocabulary as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=0)


@dataclasses.dataclass(frozen=True)
class SubwordVocabulary:
    """Subwords by byte-pair encoding, of the `tokenizers` library.

    Attributes:
        content: What `Tokenizer.to_str` gives; all that decides the ids.
    """

    content: str
    unit: str = "subwords"

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    @functools.cached_property
    def tokens(self) -> tuple[str, ...]:
        """The subwords by id."""
        return tuple(self._tokenizer.id_to_token(index) for index in range(len(self)))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.content)

    def encode(self, line: str) -> list[int]:
        """The ids of a line's subwords, without BOS and EOS."""
        return self._tokenizer.encode(line, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The line of some ids, without specials."""
        return self._tokenizer.decode([index for index in ids if index > UNKNOWN])

    def unknown(self, line: str) -> list[str]:
        """The pieces of a line that have no id."""
        encoding = self._tokenizer.encode(line, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return list(dict.fromkeys(line[a:b] for index, (a, b) in spans if index == UNKNOWN))

    def to_json(self) -> str:
        """The vocabulary as JSON: a Hugging Face `tokenizer.json`."""
        return self.content


AnyVocabulary = TokenVocabulary | SubwordVocabulary


def make_token_vocabulary(
    lines: Iterable[str],
    *,
    unit: Unit = "words",
    lowercase: bool = False,
    min_count: int = 1,
    max_size: int | None = None,
) -> AnyVocabulary:
    """Makes a vocabulary of the tokens of some lines.

    Args:
        lines: Text; of training data only.
        unit: "symbols", "words", or "subwords" learned by byte-pair encoding.
        lowercase: Lower-case lines first.
        min_count: Tokens that occur less often are left out.
        max_size: Most tokens, specials among them; None for all. Subwords need it.

    Returns:
        The vocabulary; equal lines give an equal one.

    Raises:
        ValueError: If the unit is unknown, or a number is out of range.
    """
    if min_count < 1 or (max_size is not None and max_size <= len(SPECIALS)):
        raise ValueError(
            f"min_count is {min_count} and max_size {max_size}: give 1 or more, and more than the "
            f"{len(SPECIALS)} specials."
        )
    if unit == "subwords":
        if max_size is None:
            raise ValueError("subwords need a max_size, for example 8000.")
        return _learn_subwords(lines, lowercase, min_count, max_size)
    if unit not in ("symbols", "words"):
        raise ValueError(f"Unknown unit {unit!r}: choose symbols, words or subwords.")
    split = TokenVocabulary(unit, SPECIALS, lowercase).split
    counts = Counter(token for line in lines for token in split(line))
    kept = [token for token, count in counts.items() if count >= min_count]
    kept = sorted((t for t in kept if t not in SPECIALS), key=lambda t: (-counts[t], t))
    room = None if max_size is None else max_size - len(SPECIALS)
    return TokenVocabulary(unit, (*SPECIALS, *kept[:room]), lowercase)


def load_token_vocabulary(content: str) -> AnyVocabulary:
    """Reads what `to_json` wrote.

    Args:
        content: The JSON text.

    Returns:
        The vocabulary.

    Raises:
        ValueError: If the text is no vocabulary.
    """
    try:
        parsed = json.loads(content)
        if "model" in parsed:
            vocabulary = SubwordVocabulary(content)
            len(vocabulary)
            return vocabulary
        tokens = tuple(parsed["tokens"])
        if tokens[: len(SPECIALS)] != SPECIALS or len(set(tokens)) != len(tokens):
            raise ValueError("tokens must begin with the specials and be distinct")
        return TokenVocabulary(parsed["unit"], tokens, parsed["lowercase"])
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(
            f"that is no vocabulary of tokens ({error}): write one with `to_json`."
        ) from error


def _learn_subwords(lines, lowercase, min_count, max_size) -> SubwordVocabulary:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    learned = tokenizers.Tokenizer(models.BPE(unk_token=SPECIALS[UNKNOWN]))
    steps: Sequence[Any] = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    learned.normalizer = normalizers.Sequence(list(steps))
    # Punctuation apart, so that no subword crosses into it; the mark of a word's start is kept.
    learned.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    learned.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=max_size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    learned.train_from_iterator(lines, trainer)
    return SubwordVocabulary(learned.to_str())
