"""Texts in, vectors out: pretrained encoders of sentences, of words in context, of every layer."""

import collections
import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, PyTree

from jaxembed.convert.huggingface.bert import load_bert
from jaxembed.convert.huggingface.files import CONFIG, read_json
from jaxembed.convert.huggingface.gpt2 import load_gpt2
from jaxembed.convert.sentence_transformers import (
    MODULES,
    SentenceModules,
    load_static_embedding,
    read_modules,
)
from jaxembed.data.packing import PackedRows, pack_rows, plan_rows
from jaxembed.data.tokenizer import Encoded, TextTokenizer, load_tokenizer
from jaxembed.environment import keep_compiled
from jaxembed.models.bert import Bert, without_heads
from jaxembed.models.gpt import Gpt
from jaxembed.models.packed import all_states, most_in_a_row, sentence_vectors, word_vectors
from jaxembed.nn.pooling import POOLINGS, PiecePooling, pool_layers

PathLike = str | os.PathLike[str]
Layers = str | Sequence[int]
Poolings = str | Sequence[str]  # of `jaxembed.nn.pooling.Pooling`

# A row holds several sentences. Where they are many, one program is compiled for each length of
# rows that the longest of them need; the short rows are for a sentence or two.
SHORT_ROWS, ROWS = (16, 32), (64, 128, 256, 512, 1024, 2048, 4096, 8192)
# Texts that are read ahead to be sorted by length.
AT_ONCE = 16_384
LOGGER = logging.getLogger("jaxembed")


class Encoder:
    """A model with its tokenizer: texts in, vectors out.

    Attributes:
        model: `Bert` or `Gpt`.
        tokenizer: Its tokenizer.
        pooling: How tokens become one vector, unless a call says otherwise.
        normalize: Whether vectors are brought to unit length, unless a call says otherwise.
        max_length: Longest text in tokens, specials counted; what is longer is cut, with a
            warning that counts.
    """

    def __init__(
        self,
        model: Bert | Gpt,
        params: PyTree,
        tokenizer: TextTokenizer,
        *,
        pooling: Poolings = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        lowercase: bool = False,
        prompt: str = "",
        dtype: str = "float32",
        mesh: Mesh | None = None,
    ) -> None:
        """Puts the parameters on the device.

        Args:
            model: The model.
            params: Its parameters.
            tokenizer: Its tokenizer.
            pooling: A name in `jaxembed.nn.pooling.POOLINGS`, or several, whose vectors are
                joined.
            normalize: Whether vectors are brought to unit length.
            max_length: Longest text in tokens; None for the model's.
            lowercase: Whether texts are lower-cased first.
            prompt: What is put before every text.
            dtype: What layers compute in, "float32" or "bfloat16"; vectors are float32.
            mesh: A mesh of `jaxembed.train.make_mesh`, over whose devices batches are spread;
                None for one device.

        Raises:
            ValueError: If a choice is unknown, or the tokenizer has ids that the model has not.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}: choose float32 or bfloat16.")
        if tokenizer.vocab_size > model.vocab_size:
            raise ValueError(
                f"The tokenizer has {tokenizer.vocab_size} ids, the model {model.vocab_size}: they "
                "do not belong together."
            )
        # Heads are not called, and their parameters not kept.
        without = {"word_head": False, "next_head": False} if isinstance(model, Bert) else {}
        self.model = model.clone(dtype=dtype, **without)
        self.tokenizer = tokenizer
        self.pooling = _as_tuple(pooling)
        self.normalize = normalize
        self.max_length = min(max_length or model.max_length, model.max_length)
        self._lowercase, self._prompt, self._mesh = lowercase, prompt, mesh
        params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), without_heads(params))
        self._params = self._put(params, ())

    @property
    def params(self) -> PyTree:
        """The model's parameters, without those of its heads and pooler."""
        return self._params

    def encode(
        self,
        sentences: Iterable[str],
        *,
        batch_size: int = 16,
        pooling: Poolings | None = None,
        layers: Layers = "last",
        normalize: bool | None = None,
        progress: bool = False,
    ) -> Float32[np.ndarray, "count width"]:
        """One vector a sentence.

        Args:
            sentences: Texts, by a list or a generator; empty ones have their special tokens alone.
            batch_size: Rows of 64 tokens that are computed at once, or as many tokens in longer
                rows. A row holds several sentences.
            pooling: Over tokens, specials included: a name or several, whose vectors are joined;
                None for the encoder's.
            layers: A name in `jaxembed.nn.pooling.LAYER_CHOICES`, or numbers of layers, whose mean
                is taken; 0 is the embedding layer, -1 the last.
            normalize: Whether to bring vectors to unit length; None as the encoder does.
            progress: Whether to show a progress bar.

        Returns:
            The vectors in the order of the sentences; 0 for one without tokens. Batch mates and
            devices change them by rounding only.

        Raises:
            TypeError: If `sentences` is one string, or one of them is no string.
            ValueError: If a choice is unknown.
        """
        poolings = _as_tuple(self.pooling if pooling is None else pooling)
        layers, width = self._check_layers(layers)
        program = functools.partial(
            sentence_vectors,
            model=self.model,
            poolings=poolings,
            layers=layers,
            normalize=self.normalize if normalize is None else normalize,
        )
        found = [np.zeros((0, width * len(poolings)), np.float32)]
        for texts, outputs in self._run(sentences, program, batch_size, progress):
            vectors = np.zeros((len(texts), found[0].shape[1]), np.float32)
            for packed, result in outputs:
                is_real = packed.places >= 0
                vectors[packed.places[is_real]] = result[is_real]
            found.append(vectors)
        return np.concatenate(found) if len(found) != 2 else found[1]

    def hidden_states(
        self, sentences: Iterable[str], *, batch_size: int = 16, progress: bool = False
    ) -> list[Float32[np.ndarray, "states tokens width"]]:
        """All hidden states of each sentence.

        Args:
            sentences: Texts.
            batch_size: As in `encode`.
            progress: Whether to show a progress bar.

        Returns:
            For each sentence [layers + 1, tokens, width], the embedding layer first, special
            tokens kept.

        Raises:
            TypeError: If `sentences` is one string, or one of them is no string.
        """
        program = functools.partial(all_states, model=self.model)
        found: list[Any] = []
        for texts, outputs in self._run(sentences, program, batch_size, progress):
            part = [
                np.zeros((self.model.layers + 1, len(text.encoded), self.model.width), np.float32)
                for text in texts
            ]
            for packed, result in outputs:
                for row, place, start in _members(packed):
                    part[place][:] = result[:, row, start : start + len(texts[place].encoded)]
            found += part
        return found

    def encode_words(
        self,
        sentences: Iterable[str],
        *,
        batch_size: int = 16,
        pieces: str = "mean",
        layers: Layers = "last",
        progress: bool = False,
    ) -> list[tuple[list[str], Float32[np.ndarray, "words width"]]]:
        """One vector a word in its context.

        Args:
            sentences: Texts.
            batch_size: As in `encode`.
            pieces: How the vectors of a word's pieces become one: the "first", "mean" or "max".
            layers: As in `encode`.
            progress: Whether to show a progress bar.

        Returns:
            For each sentence its words as the tokenizer splits them, spelled as in the text, and
            their vectors.

        Raises:
            TypeError: If `sentences` is one string, or one of them is no string.
            ValueError: If a choice is unknown.
        """
        if pieces not in get_args(PiecePooling):
            raise ValueError(
                f"pieces is {pieces!r}: choose one of {', '.join(get_args(PiecePooling))}."
            )
        layers, width = self._check_layers(layers)
        program = functools.partial(word_vectors, model=self.model, pieces=pieces, layers=layers)
        found: list[Any] = []
        for texts, outputs in self._run(sentences, program, batch_size, progress):
            part = [(text.words, np.zeros((len(text.words), width), np.float32)) for text in texts]
            for packed, result in outputs:
                for row, place, start in _members(packed):
                    words, vectors = part[place]
                    vectors[:] = result[row, start : start + len(words)]
            found += part
        return found

    def _run(
        self, sentences: Iterable[str], program: Callable, batch_size: int, progress: bool
    ) -> Iterator[tuple[list["_Text"], Iterator[tuple[PackedRows, np.ndarray]]]]:
        """Reads texts part by part, and gives those of each with its batches and their results."""
        if isinstance(sentences, str):
            raise TypeError("sentences is a single string: give a list of strings.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give 1 or more.")
        rest = iter(sentences)
        with _make_bar(sentences, progress) as bar:
            while strings := list(itertools.islice(rest, AT_ONCE)):
                texts = self._tokenize(strings)
                yield texts, self._compute(texts, program, batch_size, bar)

    def _tokenize(self, strings: list[str]) -> list["_Text"]:
        if self._prompt or self._lowercase:
            strings = [self._prompt + string for string in strings]
        if self._lowercase:
            strings = [string.lower() for string in strings]
        encoded = self.tokenizer.encode(strings, max_length=self.max_length)
        cuts = [one.cut for one in encoded if one.cut]
        if cuts:
            LOGGER.warning(
                "%d of %d texts are longer than %d tokens: %d tokens at their ends were cut.",
                len(cuts),
                len(strings),
                self.max_length,
                sum(cuts),
            )
        return [_Text(*pair) for pair in zip(strings, encoded, strict=True)]

    def _compute(
        self, texts: list["_Text"], program: Callable, batch_size: int, bar: Any
    ) -> Iterator[tuple[PackedRows, np.ndarray]]:
        """Every batch with its result; the next one is under way while a result is used."""
        waiting: collections.deque = collections.deque()
        for packed in self._pack(texts, batch_size):
            numbers = packed.numbers
            if program.func is word_vectors:
                numbers = (numbers, _number_words(packed, texts))
            batch = self._put((packed.ids, packed.positions, numbers), ("data",))
            waiting.append((packed, program(self._params, *batch)))
            if len(waiting) > 2:
                yield self._finish(*waiting.popleft(), bar)
        while waiting:
            yield self._finish(*waiting.popleft(), bar)

    def _finish(self, packed: PackedRows, result: Array, bar: Any) -> Any:
        result = np.asarray(result)
        bar.update(int(np.sum(packed.places >= 0)))
        return packed, result

    def _pack(self, texts: list["_Text"], batch_size: int) -> Iterator[PackedRows]:
        """Batches, those of the longest rows first; room in them is filled with shorter texts."""
        lengths = np.array([len(text.encoded) for text in texts], np.int64)
        ids = [text.encoded.ids for text in texts]
        left = np.flatnonzero(lengths)
        devices = 1 if self._mesh is None else self._mesh.shape["data"]
        for length, shorter in zip(reversed(ROWS), (*reversed(ROWS[:-1]), 0), strict=True):
            if not left.size or lengths[left].max() <= shorter:
                continue
            if not shorter and len(left) <= most_in_a_row(SHORT_ROWS[-1]):
                total = lengths[left].sum()
                length = next((short for short in SHORT_ROWS if total <= short), length)
            most = most_in_a_row(length)
            plan = plan_rows(lengths[left], length, most, opening=shorter + 1)
            plan = [left[row].tolist() for row in plan]
            left = np.setdiff1d(left, [place for row in plan for place in row])
            # A few texts do not pay for a whole batch.
            rows = max(batch_size * ROWS[0] // length, 1)
            rows = min(rows, 1 << (len(plan) - 1).bit_length())
            rows = -(-rows // devices) * devices
            for start in range(0, len(plan), rows):
                chosen = plan[start : start + rows]
                yield pack_rows(ids, chosen, rows=rows, row_length=length, most=most)

    def _put(self, tree: PyTree, axes: tuple[str, ...]) -> PyTree:
        if self._mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec(*axes)))

    def _check_layers(self, layers: Layers) -> tuple[Any, int]:
        """The choice as something hashable, and the width that it gives."""
        layers = layers if isinstance(layers, str) else tuple(layers)
        state = jax.ShapeDtypeStruct((self.model.width,), jnp.float32)
        pool = functools.partial(pool_layers, layers=layers)
        return layers, jax.eval_shape(pool, [state] * (self.model.layers + 1)).shape[0]


@dataclasses.dataclass
class _Text:
    """A text and its tokens."""

    string: str
    encoded: Encoded

    @functools.cached_property
    def numbers(self) -> Int32[np.ndarray, "tokens"]:
        """The words of the tokens without gaps, from 0; -1 of specials."""
        words = self.encoded.words
        is_word = words >= 0
        numbers = np.full(len(words), -1, np.int32)
        numbers[is_word] = np.unique(words[is_word], return_inverse=True)[1]
        return numbers

    @functools.cached_property
    def words(self) -> list[str]:
        """The words as spelled."""
        return [
            self.string[found[:, 0].min() : found[:, 1].max()].strip()
            for number in range(int(self.numbers.max(initial=-1)) + 1)
            if (found := self.encoded.offsets[self.numbers == number]).size
        ]


class StaticEncoder:
    """Word vectors as an encoder: a sentence is the mean of its words, whatever their context.

    Attributes:
        tokenizer: Splits texts.
        table: A row a token.
        normalize: Whether vectors are brought to unit length, unless a call says otherwise.
    """

    def __init__(
        self, tokenizer: TextTokenizer, table: np.ndarray, *, normalize: bool = False
    ) -> None:
        """Pairs a tokenizer with the rows of a table."""
        self.tokenizer, self.table, self.normalize = tokenizer, table, normalize

    def encode(
        self, sentences: Iterable[str], *, normalize: bool | None = None, progress: bool = False
    ) -> Float32[np.ndarray, "count width"]:
        """One vector a sentence; 0 for one without tokens. See `Encoder.encode`."""
        if isinstance(sentences, str):
            raise TypeError("sentences is a single string: give a list of strings.")
        with _make_bar(sentences, progress) as bar:
            encoded = self.tokenizer.encode(list(sentences))
            bar.update(len(encoded))
        vectors = np.zeros((len(encoded), self.table.shape[1]), np.float32)
        for row, one in enumerate(encoded):
            ids = one.ids[one.words >= 0]
            if ids.size:
                vectors[row] = self.table[ids].mean(axis=0)
        if self.normalize if normalize is None else normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def load_encoder(
    path: PathLike,
    *,
    pooling: Poolings | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
) -> Encoder | StaticEncoder:
    """Opens a pretrained model.

    What is compiled for it is kept on the disk, see `jaxembed.environment.keep_compiled`.

    Args:
        path: A run of a BERT, a folder of Hugging Face (BERT, DistilBERT, RoBERTa, GPT-2) or a
            folder of sentence-transformers.
        pooling: How tokens become one vector; None for what the folder says, the mean where it
            says nothing.
        normalize: Whether vectors are brought to unit length; None for what the folder says.
        max_length: Longest text in tokens; None for what the folder says.
        dtype: What layers compute in, "float32" or "bfloat16"; vectors are float32.
        mesh: A mesh of `jaxembed.train.make_mesh`, over whose devices batches are spread.

    Returns:
        The encoder; a `StaticEncoder` where the folder holds static embeddings.

    Raises:
        FileNotFoundError: If there is nothing of the kind, or a file is missing.
        ValueError: If a file is damaged, the architecture is unknown, or weights do not fit.
    """
    path = Path(path)
    keep_compiled()
    said = SentenceModules(path, False, ("mean",), False, None, False, "")
    if (path / MODULES).is_file():
        said = read_modules(path)
        if said.is_static:
            tokenizer, table = load_static_embedding(said.folder)
            is_unit = said.normalize if normalize is None else normalize
            return StaticEncoder(tokenizer, table, normalize=is_unit)
    if (path / "recipe.json").is_file():
        model, params = _load_run(path)
    elif (said.folder / CONFIG).is_file():
        kind = read_json(said.folder / CONFIG).get("model_type")
        model, params = (load_gpt2 if kind == "gpt2" else load_bert)(said.folder)
    else:
        raise FileNotFoundError(
            f"{path} is no run (recipe.json), no folder of sentence-transformers ({MODULES}) and "
            f"none of Hugging Face ({CONFIG})."
        )
    return Encoder(
        model,
        params,
        load_tokenizer(said.folder),
        pooling=said.poolings if pooling is None else pooling,
        normalize=said.normalize if normalize is None else normalize,
        max_length=max_length or said.max_length or _tokenizer_limit(said.folder),
        lowercase=said.lowercase,
        prompt=said.prompt,
        dtype=dtype,
        mesh=mesh,
    )


def _load_run(path: Path) -> tuple[Bert | Gpt, PyTree]:
    from jaxembed.run import load_run

    run = load_run(path)
    if not isinstance(run.model, Bert | Gpt):
        raise ValueError(
            f"{path} is a run of {type(run.model).__name__}, which is no encoder of texts: give "
            "one of a Bert. What other families can embed, load_run(path).embed does."
        )
    return run.model, run.params


def _tokenizer_limit(folder: Path) -> int | None:
    """The longest text that the tokenizer's own configuration admits."""
    file = folder / "tokenizer_config.json"
    limit = read_json(file).get("model_max_length") if file.is_file() else None
    # Theirs is 10^30 where there is none.
    return int(limit) if limit is not None and limit < 1e9 else None


def _as_tuple(pooling: Poolings) -> tuple[str, ...]:
    names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    for name in names:
        if name not in POOLINGS:
            raise ValueError(f"Unknown pooling {name!r}: choose one of {', '.join(POOLINGS)}.")
    return names


def _make_bar(sentences: Iterable[str], progress: bool) -> Any:
    from tqdm import tqdm

    total = len(sentences) if isinstance(sentences, Sequence) else None
    return tqdm(total=total, unit="sentence", disable=not progress)


def _members(packed: PackedRows) -> Iterator[tuple[int, int, int]]:
    """Row, number in the data and start of every sequence."""
    for row, number in zip(*np.nonzero(packed.places >= 0), strict=True):
        yield int(row), int(packed.places[row, number]), int(packed.starts[row, number])


def _number_words(packed: PackedRows, texts: list[_Text]) -> Int32[np.ndarray, "rows length"]:
    """The words of a row without clashes: a sentence has no more words than tokens."""
    words = np.full(packed.ids.shape, -1, np.int32)
    for row, place, start in _members(packed):
        numbers = texts[place].numbers
        words[row, start : start + len(numbers)] = np.where(numbers < 0, -1, numbers + start)
    return words
