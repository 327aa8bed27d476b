"""Texts as pieces of a pretrained model: WordPiece and byte-pair tokenizers, read or learned."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTE_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LONGEST_WORD = 100  # characters; BERT makes a longer one unknown
_PRIVATE = 0xF0000  # where Unicode leaves 65,534 characters to whoever wants them
_ROLES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>", "<|startoftext|>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text, or a pair of texts, as ids; without padding.

    Attributes:
        ids: Of the pieces and of the specials around them.
        segments: 0 for the first text and its specials, 1 for the second; 0 throughout where the
            tokenizer knows no segments.
        offsets: Where each piece begins and ends in its own text, in characters; (0, 0) of specials
            that the tokenizer added.
        words: The number of the word that a piece is of, from 0 in each text; -1 of specials.
        cut: Pieces lost by truncation.
    """

    ids: Int32[np.ndarray, "tokens"]
    segments: Int32[np.ndarray, "tokens"]
    offsets: Int32[np.ndarray, "tokens 2"]
    words: Int32[np.ndarray, "tokens"]
    cut: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the `tokenizers` library, as its JSON text.

    Attributes:
        content: All that decides the ids.
    """

    content: str

    @property
    def vocab_size(self) -> int:
        """Ids, added tokens among them."""
        return self._whole.get_vocab_size()

    @property
    def pad_id(self) -> int:
        """The id to pad with; 0 where the vocabulary has none."""
        return self._find("pad", 0)

    @property
    def cls_id(self) -> int:
        """The id before a text."""
        return self._find("cls")

    @property
    def sep_id(self) -> int:
        """The id behind a text."""
        return self._find("sep")

    @property
    def mask_id(self) -> int:
        """The id in place of a hidden piece."""
        return self._find("mask")

    @functools.cached_property
    def special_ids(self) -> tuple[int, ...]:
        """The ids that stand for no text, rising."""
        added = self._whole.get_added_tokens_decoder()
        return tuple(sorted(index for index, token in added.items() if token.special))

    @property
    def _whole(self) -> Any:
        return _make_tokenizer(self.content, None)

    def _find(self, role: str, otherwise: int | None = None) -> int:
        """The id of the first name that the vocabulary has."""
        found = (self._whole.token_to_id(name) for name in _ROLES[role])
        index = next((index for index in found if index is not None), otherwise)
        if index is None:
            raise ValueError(
                f"the tokenizer has no token for {role!r}: its vocabulary would need one of "
                f"{', '.join(_ROLES[role])}."
            )
        return index

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
    ) -> list[Encoded]:
        """Turns texts into ids, with the specials that the tokenizer puts around them.

        Args:
            texts: Any strings.
            pairs: The second text of each, or None.
            max_length: Most ids of a text or pair, specials among them. What is longer is cut at
                its end, the longer text of a pair first. None cuts nothing.

        Returns:
            One for each text, in order.

        Raises:
            TypeError: If `texts` is a single string, or holds something else than strings.
            ValueError: If there are not as many pairs as texts, a text holds half a surrogate
                pair, or `max_length` has no room for the specials.
        """
        _check_texts(texts, "texts")
        if pairs is not None:
            _check_texts(pairs, "pairs")
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs: give one each.")
        specials = self._whole.num_special_tokens_to_add(pairs is not None)
        if max_length is not None and max_length < max(specials, 1):
            raise ValueError(
                f"max_length is {max_length}, but {specials} specials are put around: give more."
            )
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = _make_tokenizer(self.content, max_length).encode_batch(inputs)
        lost = [index for index, one in enumerate(found) if one.overflowing]
        whole = self._whole.encode_batch([inputs[index] for index in lost])
        cuts = dict(zip(lost, whole, strict=True))
        return [
            _pack(one, len(cuts[index]) - len(one) if index in cuts else 0)
            for index, one in enumerate(found)
        ]

    def decode(self, ids: Iterable[int] | Int[np.ndarray, "tokens"]) -> str:
        """The text of some ids, without specials."""
        return self._whole.decode([int(index) for index in ids])

    def pieces(self, ids: Iterable[int] | Int[np.ndarray, "tokens"]) -> list[str]:
        """The pieces of the vocabulary that some ids stand for, specials among them."""
        return [self._whole.id_to_token(int(index)) for index in ids]

    def to_json(self) -> str:
        """The tokenizer as a Hugging Face `tokenizer.json`."""
        return self.content


def load_tokenizer(path: str | os.PathLike[str], *, lowercase: bool = True) -> TextTokenizer:
    """Reads a tokenizer of a pretrained model.

    Args:
        path: A `tokenizer.json`; a `vocab.txt` of BERT, one piece a line; or a folder that holds
            either, of which the first is taken.
        lowercase: Of a `vocab.txt`: whether text is lower-cased and loses its accents. A
            `tokenizer_config.json` beside it decides instead.

    Returns:
        The tokenizer, without stored padding and truncation.

    Raises:
        FileNotFoundError: If there is no such file, or neither in the folder.
        ValueError: If the file is no tokenizer.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        names = ("tokenizer.json", "vocab.txt")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path} has no {' or '.join(names)}: give another folder.")
        path = found[0]
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}: give a tokenizer.json or vocab.txt.")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): give another tokenizer.") from error
    if path.suffix == ".json":
        return _clean(text, str(path))
    # Not by splitlines: U+2028 and the like are pieces.
    pieces = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    missing = [name for name in BERT_SPECIALS if name not in pieces]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: give a vocab.txt of BERT.")
    config = _read_config(path.parent / "tokenizer_config.json")
    return _make_bert(
        {piece: index for index, piece in enumerate(pieces)},
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
        split_chinese=config.get("tokenize_chinese_chars", True),
    )


def train_wordpiece(
    lines: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    min_count: int = 2,
    alphabet: int = 1000,
) -> TextTokenizer:
    """Learns the pieces of BERT's tokenizer from a text.

    The trainer of `tokenizers` numbers pieces in the order of a hash table that differs from
    process to process; here equal texts give an equal tokenizer.

    Args:
        lines: Text.
        vocab_size: Most pieces, five specials among them.
        lowercase: Lower-case the text and drop accents, here and when texts are encoded.
        min_count: Pieces that occur less often are not made.
        alphabet: Most characters; words with rarer ones become unknown.

    Returns:
        The tokenizer: `[CLS] text [SEP]`, or `[CLS] text [SEP] text [SEP]` in two segments.

    Raises:
        ValueError: If the text has no words, or a number is out of range.

    References: Schuster & Nakajima, 2012; Devlin et al., 2019, https://arxiv.org/abs/1810.04805,
    section 3. Pieces are joined in order of frequency, as the library's trainer does.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    _check_training(vocab_size, min_count, len(BERT_SPECIALS))
    reader = _read_words(_make_bert(dict.fromkeys(BERT_SPECIALS, 0), lowercase=lowercase), lines)
    counts = Counter(itertools.chain.from_iterable(reader))
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    kept = sorted(letters, key=lambda letter: (-letters[letter], letter))[:alphabet]
    # A letter inside a word is another one than at its start; no such mark, no table to iterate.
    inner = {letter: chr(_PRIVATE + place) for place, letter in enumerate(sorted(kept))}
    outer = {mark: letter for letter, mark in inner.items()}
    marked = {
        word[0] + "".join(map(inner.__getitem__, word[1:])): count
        for word, count in counts.items()
        if len(word) <= LONGEST_WORD and all(letter in inner for letter in word)
    }
    if not marked:
        raise ValueError("the text has no words at all: give a text with words.")
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learned.train_from_iterator(
        (" ".join([word] * count) for word, count in marked.items()),
        _make_trainer(vocab_size, min_count, BERT_SPECIALS, []),
    )
    pieces = learned.get_vocab()
    return _make_bert(
        {
            ("##" if piece[0] in outer else "")
            + "".join(outer.get(letter, letter) for letter in piece): index
            for piece, index in pieces.items()
        },
        lowercase=lowercase,
    )


def train_byte_pairs(
    lines: Iterable[str], vocab_size: int, *, lowercase: bool = False, min_count: int = 2
) -> TextTokenizer:
    """Learns byte pairs from a text, as those of GPT-2 and RoBERTa: nothing is unknown.

    Args:
        lines: Text.
        vocab_size: Most pieces; five specials and the 256 bytes are among them.
        lowercase: Lower-case the text first, here and when texts are encoded.
        min_count: Pieces that occur less often are not made.

    Returns:
        The tokenizer: `<s> text </s>`, or `<s> text </s> text </s>` in two segments.

    Raises:
        ValueError: If a number is out of range.

    References: Sennrich et al., 2016, https://arxiv.org/abs/1508.07909, algorithm 1; Radford et
    al., 2019, section 2.2.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    _check_training(vocab_size, min_count, len(BYTE_SPECIALS) + 256)
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    if lowercase:
        learned.normalizer = normalizers.Lowercase()
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = _make_trainer(
        vocab_size, min_count, BYTE_SPECIALS, pre_tokenizers.ByteLevel.alphabet()
    )
    learned.train_from_iterator(iter(lines), trainer)
    learned.post_processor = _make_template(learned, "<s>", "</s>")
    return TextTokenizer(learned.to_str())


@functools.lru_cache(maxsize=8)
def _make_tokenizer(content: str, max_length: int | None) -> Any:
    """The tokenizer itself. It is mutable, so one that cuts is another one: threads share them."""
    import tokenizers

    made = tokenizers.Tokenizer.from_str(content)
    if max_length is not None:
        made.enable_truncation(max_length)
    return made


def _make_bert(
    pieces: dict[str, int],
    *,
    lowercase: bool,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
) -> TextTokenizer:
    """BERT's own: clean, split at spaces, punctuation and ideographs, then the longest pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    made = Tokenizer(model)
    made.add_special_tokens(sorted(BERT_SPECIALS, key=pieces.__getitem__))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=split_chinese,
        strip_accents=strip_accents,  # None: where text is lower-cased
        lowercase=lowercase,
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = _make_template(made, "[CLS]", "[SEP]")
    return TextTokenizer(made.to_str())


def _make_template(tokenizer: Any, before: str, behind: str) -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{before}:0 $A:0 {behind}:0",
        pair=f"{before}:0 $A:0 {behind}:0 $B:1 {behind}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (before, behind)],
    )


def _make_trainer(vocab_size: int, min_count: int, specials: Sequence[str], start: list) -> Any:
    from tokenizers import trainers

    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(specials),
        initial_alphabet=start,
        show_progress=False,
    )


def _read_words(tokenizer: TextTokenizer, lines: Iterable[str]) -> Iterable[list[str]]:
    """The words of each line, before they are taken into pieces."""
    made = tokenizer._whole
    for line in lines:
        cleaned = made.normalizer.normalize_str(line)
        yield [word for word, _ in made.pre_tokenizer.pre_tokenize_str(cleaned)]


def _clean(content: str, name: str) -> TextTokenizer:
    """A tokenizer without stored padding and truncation, which would drop ends silently."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{name} is not a Hugging Face tokenizer ({error}): give a tokenizer.json."
        ) from error
    made.no_truncation()
    made.no_padding()
    return TextTokenizer(made.to_str())


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """What a tokenizer_config.json says; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise ValueError(f"{path} is not JSON of a tokenizer ({error}): mend it.") from error
    return content


def _pack(encoding: Any, cut: int) -> Encoded:
    words = [-1 if word is None else word for word in encoding.word_ids]
    return Encoded(
        ids=np.array(encoding.ids, np.int32),
        segments=np.array(encoding.type_ids, np.int32),
        offsets=np.array(encoding.offsets, np.int32).reshape(-1, 2),
        words=np.array(words, np.int32),
        cut=cut,
    )


def _check_texts(texts: Sequence[str], name: str) -> None:
    if isinstance(texts, str):
        raise TypeError(f"{name} is a single string: give a list of strings.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{name}[{number}] is of type {type(text).__name__}: give strings; decode bytes "
                "first."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}[{number}] holds {text[error.start]!r} at {error.start}, half a "
                    "surrogate pair: decode the text with errors='replace'."
                ) from error


def _check_training(vocab_size: int, min_count: int, least: int) -> None:
    if vocab_size <= least or min_count < 1:
        raise ValueError(
            f"vocab_size is {vocab_size} and min_count {min_count}: give more than {least} and 1 "
            "or more."
        )
