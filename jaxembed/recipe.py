"""Recipes: all that decides a result, as frozen dataclasses that go to JSON and back."""

import dataclasses
import difflib
import inspect
import json
import types
import typing
from typing import Any, Literal

from jaxembed.data import (
    HistorySet,
    ImageCaptions,
    ImageSet,
    MaskedWords,
    PairSet,
    PieceCorpus,
    TextCorpus,
    TextPairs,
)
from jaxembed.decoding.penalty import penalty_table
from jaxembed.models import (
    AE,
    CBOW,
    VAE,
    Bert,
    Contrastive,
    DualEncoder,
    Reconstruction,
    SentenceBert,
    Seq2Seq,
    SkipGram,
    TokenCrossEntropy,
    TransformerSeq2Seq,
    TwoViews,
    VariationalBound,
    ViewEncoder,
)
from jaxembed.models.word2vec import RowSGD, WindowPairs
from jaxembed.nn import BagOfWords, ResNet, TextTransformer, Views, VisionTransformer
from jaxembed.train import Adam

PARTS = ("model", "data", "loss", "optim", "evaluation")


@dataclasses.dataclass(frozen=True)
class WordEvaluation:
    """Files that word vectors are judged by.

    Attributes:
        analogies: Path of a file of analogy questions, or None.
        pairs: Paths of files of word pairs with human scores.
        restrict_vocab: Analogies are answered among this many of the most frequent words.
    """

    analogies: str | None = None
    pairs: tuple[str, ...] = ()
    restrict_vocab: int = 30_000

    def __post_init__(self) -> None:
        if self.restrict_vocab < 1:
            raise ValueError(f"restrict_vocab is {self.restrict_vocab}; give 1 or more.")


@dataclasses.dataclass(frozen=True)
class CodeEvaluation:
    """How codes, and the model that made them, are judged on examples held out.

    Attributes:
        samples: Importance samples an example for the log-likelihood.
        most: Examples tested at most; the probes learn from five times as many training examples.
        neighbours: Of the nearest-neighbour probe.
    """

    samples: int = 500
    most: int = 1000
    neighbours: int = 5

    def __post_init__(self) -> None:
        if min(self.samples, self.most, self.neighbours) < 1:
            raise ValueError(
                f"samples is {self.samples}, most {self.most}, neighbours {self.neighbours}: give "
                "1 or more of each."
            )


@dataclasses.dataclass(frozen=True)
class RankingEvaluation:
    """How recommended items are judged against those held out.

    Attributes:
        k: Length of the list that is recommended.
    """

    k: int = 20

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}: give 1 or more.")


@dataclasses.dataclass(frozen=True)
class TranslationEvaluation:
    """How translations of test sentences are judged.

    Attributes:
        measure: "bleu", of sacrebleu; or "error-rates": edits a token, and the share of sequences
            that are not wholly right.
        beam: Of the search that is judged beside greedy search.
        length_penalty: See `jaxembed.decoding.beam_search`.
        most: Pairs tested at most; None for all.
    """

    measure: Literal["bleu", "error-rates"] = "bleu"
    beam: int = 5
    length_penalty: str = "none"
    most: int | None = None

    def __post_init__(self) -> None:
        if self.beam < 1 or (self.most is not None and self.most < 1):
            raise ValueError(f"beam is {self.beam} and most {self.most}; give 1 or more.")
        penalty_table(self.length_penalty, 1)


@dataclasses.dataclass(frozen=True)
class MaskedEvaluation:
    """How predictions of hidden words are judged on text held out.

    Attributes:
        most: Examples judged at most.
    """

    most: int = 1000

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most is {self.most}: give 1 or more.")


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluation:
    """How retrieval between two towers is judged on what is held out.

    Attributes:
        k: Length of the list in which a right answer counts, besides 1.
    """

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError(f"k is {self.k}: give 2 or more.")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices of a run: streams or rows are spread over `data`, dimensions over `model`."""

    data: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        if min(self.data, self.model) < 1:
            raise ValueError(f"a mesh of {self.data} x {self.model} devices; give 1 or more.")


@dataclasses.dataclass(frozen=True)
class Family:
    """Types that make a recipe together. The first loss, optim and evaluation are the defaults.

    Attributes:
        model: Modules of `jaxembed.models`.
        data: What they can be trained on.
        loss: Which examples enter the loss, and how.
        optim: How parameters are updated.
        evaluation: What the result is judged by.
        inner: Types of fields of the above.
    """

    model: tuple[type, ...]
    data: tuple[type, ...]
    loss: tuple[type, ...]
    optim: tuple[type, ...]
    evaluation: tuple[type, ...]
    inner: tuple[type, ...] = ()


FAMILIES = (
    Family((SkipGram, CBOW), (TextCorpus,), (WindowPairs,), (RowSGD,), (WordEvaluation,)),
    Family((AE,), (ImageSet,), (Reconstruction,), (Adam,), (CodeEvaluation,)),
    Family((VAE,), (ImageSet,), (VariationalBound,), (Adam,), (CodeEvaluation,)),
    Family((ViewEncoder,), (ImageSet,), (TwoViews,), (Adam,), (CodeEvaluation,)),
    Family((VAE,), (HistorySet,), (VariationalBound,), (Adam,), (RankingEvaluation,)),
    Family(
        (Seq2Seq, TransformerSeq2Seq),
        (PairSet,),
        (TokenCrossEntropy,),
        (Adam,),
        (TranslationEvaluation,),
    ),
    Family((Bert,), (PieceCorpus,), (MaskedWords,), (Adam,), (MaskedEvaluation,)),
    Family(
        (DualEncoder,),
        (ImageCaptions, TextPairs),
        (Contrastive,),
        (Adam,),
        (RetrievalEvaluation,),
        (VisionTransformer, ResNet, TextTransformer, BagOfWords, SentenceBert, Views),
    ),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes:
        model: A module of `jaxembed.models`; sizes that the data decide are left 0 or empty.
        data: What it is trained on.
        loss: Which examples enter the loss, and how; by default as the model's family does.
        optim: How parameters are updated; likewise.
        evaluation: What the result is judged by; likewise.
        epochs: Passes over the data.
        seed: The one seed of every random number.
        mesh: Devices.
        start: PATH of a folder of Hugging Face or sentence-transformers that a `DualEncoder` of
            `SentenceBert` begins with; None begins at random.
    """

    model: Any
    data: Any
    loss: Any = None
    optim: Any = None
    evaluation: Any = None
    epochs: int = 5
    seed: int = 1
    mesh: MeshShape = MeshShape()
    start: str | None = None

    def __post_init__(self) -> None:
        families = [one for one in FAMILIES if type(self.model) in one.model] or list(FAMILIES)
        for part in PARTS:
            kinds = [kind for one in families for kind in getattr(one, part)]
            if getattr(self, part) is None and part in ("loss", "optim", "evaluation"):
                object.__setattr__(self, part, kinds[0]())
            if type(value := getattr(self, part)) not in kinds:
                wanted = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
                raise ValueError(f"recipe.{part} is {value!r}; wanted {wanted}.")
            families = [one for one in families if type(value) in getattr(one, part)]
        _check_types(self, "recipe")
        if self.start is not None and not isinstance(self.model, DualEncoder):
            raise ValueError(
                f"start is {self.start!r}, but {type(self.model).__name__} begins at random: "
                "leave it out."
            )
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; give 1 or more.")
        if not 0 <= self.seed < 2**32:  # JAX would drop higher bits, so two seeds would be one
            raise ValueError(f"seed is {self.seed}; give a number from 0 to 2**32 - 1.")

    def to_json(self) -> dict[str, Any]:
        """Returns the recipe as JSON values, each dataclass with its `type`."""
        return _to_json(self)

    @classmethod
    def from_json(cls, content: Any) -> "Recipe":
        """Makes the recipe that `to_json` described.

        Types are looked up in a fixed table of this package; nothing is imported or run.

        Raises:
            ValueError: If a type or field is unknown, or a value does not fit its field.
        """
        recipe = _from_json(content, "recipe")
        if not isinstance(recipe, cls):
            raise ValueError(f"the JSON describes a {type(recipe).__name__}; wanted a Recipe.")
        return recipe

    def override(self, changes: dict[str, str]) -> "Recipe":
        """Replaces fields named by dotted paths, as `--optim.lr 0.05` does.

        Args:
            changes: Text of each new value by path: none, a text where the field takes one, and
                JSON elsewhere.

        Raises:
            ValueError: If there is no such field (the nearest is named) or a value does not fit.
        """
        return _replace(self, {tuple(path.split(".")): changes[path] for path in changes}, (), self)

    def with_sizes(self, resolved: dict[str, Any]) -> "Recipe":
        """Fills in the model's sizes that a run's data decided, JSON values by dotted path."""
        sizes = {tuple(path.split(".")): value for path, value in resolved.items()}
        return dataclasses.replace(self, model=_with_sizes(self.model, sizes, "model"))

    def differences(self, other: "Recipe") -> list[str]:
        """Says for each field that differs what stands here and what in the other recipe."""
        mine, others = flatten(self.to_json()), flatten(other.to_json())
        return [
            f"{name}: {mine.get(name)!r} and {others.get(name)!r}"
            for name in sorted(mine.keys() | others.keys())
            if mine.get(name) != others.get(name)
        ]


TYPES: dict[str, type] = {kind.__name__: kind for kind in (Recipe, MeshShape)} | {
    kind.__name__: kind
    for family in FAMILIES
    for part in (*PARTS, "inner")
    for kind in getattr(family, part)
}


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as one, keys joined by dots."""
    if not isinstance(content, dict):
        return {prefix: content}
    joined = {}
    for key, value in content.items():
        joined |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return joined


def fields_of(value: Any) -> dict[str, Any]:
    """Names and types of a dataclass's own fields; those of linen itself are left out."""
    kind = value if isinstance(value, type) else type(value)
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("jaxembed."):
            hints |= inspect.get_annotations(base, eval_str=True)
    # Linen writes its own into every module; these say where a module lies, not what it is.
    linen = {"parent", "name"} if hasattr(kind, "clone") else set()
    names = [field.name for field in dataclasses.fields(kind) if field.name not in linen]
    return {name: hints[name] for name in names if name in hints}


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = {name: _to_json(getattr(value, name)) for name in fields_of(value)}
        return {"type": type(value).__name__} | named
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _from_json(content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        return content
    named = content.get("type")
    kind = TYPES.get(named) if isinstance(named, str) else None
    if kind is None:
        raise ValueError(f"{where} is of type {named!r}." + nearest(str(named), TYPES))
    hints = fields_of(kind)
    values = {}
    for name, value in content.items():
        if name == "type":
            continue
        if name not in hints:
            raise ValueError(f"{where} has a field {name!r}." + nearest(name, hints))
        here = f"{where}.{name}"
        values[name] = _fit(_from_json(value, here), hints[name], here)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}.") from error


def nearest(name: str, known: Any) -> str:
    """Names the closest of the known names."""
    close = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f" Did you mean {close[0]!r}?" if close else f" Known are {', '.join(sorted(known))}."


def _replace(
    value: Any, changes: dict[tuple[str, ...], str], prefix: tuple[str, ...], recipe: Recipe
) -> Any:
    """Makes all changes of one dataclass at once, as fields may hold only together."""
    hints = fields_of(value)
    news, inner = {}, {}
    for (name, *rest), text in changes.items():
        whole = ".".join((*prefix, name, *rest))
        is_group = name in hints and dataclasses.is_dataclass(getattr(value, name))
        if name not in hints or (rest and not is_group):
            paths = [path for path in flatten(recipe.to_json()) if path.split(".")[-1] != "type"]
            raise ValueError(f"there is no option --{whole}." + nearest(whole, paths))
        if rest:
            inner.setdefault(name, {})[tuple(rest)] = text
        elif is_group:
            raise ValueError(f"--{whole} names a group: give one of its fields, as in --{whole}.X.")
        else:
            news[name] = _fit(_parse(text, hints[name]), hints[name], f"--{whole}")
    for name, group in inner.items():
        news[name] = _replace(getattr(value, name), group, (*prefix, name), recipe)
    return value.clone(**news) if hasattr(value, "clone") else dataclasses.replace(value, **news)


def _with_sizes(module: Any, sizes: dict[tuple[str, ...], Any], where: str) -> Any:
    """A module with the fields that a path leads to replaced; other paths are left out.

    Its parts are copies, as linen takes one object in two places for one set of parameters.
    """
    news = {}
    for name, hint in fields_of(module).items():
        inner = {path[1:]: value for path, value in sizes.items() if path[0] == name and path[1:]}
        if (name,) in sizes:
            news[name] = _fit(sizes[name,], hint, f"{where}.{name}")
        elif hasattr(value := getattr(module, name), "clone"):
            news[name] = _with_sizes(value, inner, f"{where}.{name}")
    return module.clone(**news)


def _parse(text: str, hint: Any) -> Any:
    if text.lower() in ("none", "null"):
        return None
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if str in options:  # a file may be called 007
        return text
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _check_types(value: Any, where: str) -> None:
    """Raises unless every field holds what JSON gives back."""
    for name, hint in fields_of(value).items():
        field = getattr(value, name)
        _fit(field, hint, f"{where}.{name}")
        if dataclasses.is_dataclass(field):
            _check_types(field, f"{where}.{name}")


def _fit(value: Any, hint: Any, where: str) -> Any:
    """Returns the value as the type asks, or raises."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            try:
                return _fit(value, option, where)
            except ValueError:
                continue
    elif origin is typing.Literal:
        if value in arguments:
            return value
        hint = "one of " + ", ".join(map(repr, arguments))
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_fit(item, arguments[0], where) for item in value)
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is Any or (hint in (None, type(None)) and value is None):
        return value
    elif isinstance(hint, type) and type(value) is hint:
        return value
    wanted = hint.__name__ if isinstance(hint, type) else hint
    raise ValueError(f"{where} is {value!r}; wanted {wanted}.")
