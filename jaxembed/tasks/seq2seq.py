"""Encoder-decoders as a task: pairs of sequences in, a translator out."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxembed.data import (
    EMBEDDED,
    PairBatches,
    Pairs,
    bucket_batches,
    choose_lengths,
    encode_lines,
    load_token_vocabulary,
    make_token_vocabulary,
)
from jaxembed.data.tokens import BOS, EOS, PAD, UNKNOWN, AnyVocabulary
from jaxembed.metrics import corpus_bleu, sequence_error_rate, word_error_rate
from jaxembed.models import make_translation_loss
from jaxembed.models.seq2seq import TransformerSeq2Seq, translate
from jaxembed.tasks import seq2seq_figures
from jaxembed.tasks.gradient import check_batch, train_streamed
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.vectors import KeyedVectors

AT_ONCE = 64  # lines a batch
CHUNK = 8192  # lines sorted by length together
# Few, as each is compiled; padding costs the encoder only, as decoding ends with the last line.
SHAPES = 3
SIDES = ("source", "target")

_search = jax.jit(
    translate,
    static_argnames=(
        "model",
        "bos_id",
        "eos_id",
        "max_len",
        "beam_size",
        "length_penalty",
        "n_best",
        "forbidden",
    ),
)


class Translation(NamedTuple):
    """A target that was found, and its score (see `jaxembed.decoding.Decoded`)."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class _Data:
    """Batches, and where the token vectors of a side start: rows and their values."""

    batches: PairBatches
    vectors: dict[str, tuple[np.ndarray, np.ndarray]]


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Reads the pairs and makes the vocabularies; see `Task`."""
    del cache, texts
    check_batch(recipe)
    data = recipe.data
    if isinstance(recipe.model, TransformerSeq2Seq) and recipe.model.max_length < data.max_len:
        raise ValueError(
            f"data.max_len is {data.max_len}, but the model has positions for "
            f"{recipe.model.max_length} tokens: raise model.max_length."
        )
    if getattr(recipe.model, "shared", False) and not data.joint:
        raise ValueError("model.shared needs one vocabulary of both sides: set data.joint.")
    train, test = data.open("train"), data.open(data.test)
    vocabularies = _make_vocabularies(data, train)
    sources, targets = (
        encode_lines(lines, vocabulary, max_len=1 << 20)[0]
        for lines, vocabulary in zip((train.sources, train.targets), vocabularies, strict=True)
    )
    batches = PairBatches(
        sources,
        targets,
        batch_size=recipe.optim.batch_size,
        max_len=data.max_len,
        seed=recipe.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    vectors = {}
    for side, vocabulary in zip(SIDES, vocabularies, strict=True):
        if (path := getattr(data, f"{side}_vectors")) is not None:
            vectors[side] = _start_vectors(recipe, side, path, vocabulary)
    digest = hashlib.sha256(repr((train.sources, train.references)).encode())
    digest.update(repr((test.sources, test.references)).encode())
    for rows, values in vectors.values():
        digest.update(rows.tobytes() + values.tobytes())
    resolved = {
        "source_vocab": len(vocabularies[0]),
        "target_vocab": len(vocabularies[1]),
        "count": len(train) - batches.dropped,
        "dropped": batches.dropped,
        "test_count": len(test),
        "fingerprint": digest.hexdigest(),
        "versions": EMBEDDED[data.source].versions() if data.source in EMBEDDED else {},
    }
    # A model that cannot be made shall be known before a directory is written.
    abstract_params(recipe.with_sizes(resolved), resolved)
    files = {
        f"vocab.{side}.json": vocabulary.to_json().encode()
        for side, vocabulary in zip(SIDES, vocabularies, strict=True)
    }
    files["eval/test.jsonl"] = _pack(test, recipe.evaluation.most)
    return Prepared(_Data(batches, vectors), resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches; see `Task`."""
    return train_streamed(
        recipe,
        mesh,
        prepared.data.batches,
        functools.partial(_init, recipe.model, prepared.data.vectors),
        make_translation_loss(
            recipe.model, bos_id=BOS, label_smoothing=recipe.loss.label_smoothing
        ),
        whole_batches=True,
    )


def abstract_params(recipe: Any, resolved: dict[str, Any]) -> PyTree:
    """Says shape and dtype of the parameters; see `Task`."""
    del resolved
    return jax.eval_shape(functools.partial(_init, recipe.model, {}), jax.random.key(0))


def judged_by_stored_files(recipe: Any, folder: Path) -> Any:
    """Returns the recipe itself: it names no files to be judged by; see `Task`."""
    del folder
    return recipe


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Loss, and BLEU or error rates by greedy and by beam search; see `Task`."""
    test = load_test(folder)
    loss, tokens = _judge_loss(recipe, params, folder, test)
    results = {"loss": Metric(loss, tokens, 1e-3)}
    for beam in dict.fromkeys((1, recipe.evaluation.beam)):
        name = "greedy" if beam == 1 else f"beam-{beam}"
        found, _ = translate_texts(recipe, params, folder, test.sources, beam_size=beam)
        for measure, value in score(recipe, [one[0].text if one else "" for one in found], test):
            tolerance = 0.1 if measure == "bleu" else 0.002
            results[f"{measure}/{name}"] = Metric(value, len(test), tolerance)
    return results


def score(recipe: Any, hypotheses: Sequence[str], test: Pairs) -> list[tuple[str, float]]:
    """The measures that the recipe's evaluation asks for, by name."""
    if recipe.evaluation.measure == "bleu":
        most = max(map(len, test.references))
        # sacrebleu takes references by column; an item with fewer repeats its first.
        columns = [
            [answers[min(place, len(answers)) % len(answers)] for answers in test.references]
            for place in range(most)
        ]
        bleu = corpus_bleu(hypotheses, columns, lowercase=recipe.data.lowercase)
        return [("bleu", bleu.score)]
    split = [[answer.split() for answer in answers] for answers in test.references]
    if recipe.data.target_unit == "symbols":
        split = [[list(answer) for answer in answers] for answers in test.references]
        ours = [list(one) for one in hypotheses]
    else:
        ours = [one.split() for one in hypotheses]
    return [
        ("token_error", word_error_rate(ours, split)),
        ("sequence_error", sequence_error_rate(ours, split)),
    ]


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the vectors of the source's tokens; see `Task`."""
    vocabulary = _load_vocabulary(folder, "source")
    shared = getattr(recipe.model, "shared", False)
    table = params["target_embedding" if shared else "source_embedding"]["embedding"]
    return KeyedVectors(list(vocabulary.tokens), np.asarray(table))


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Curves, alignments, a search drawn as a tree, and quality by beam size; see `Task`."""
    test = load_test(folder)

    def try_beam(size: int, lines: Sequence[str]) -> list[str]:
        whole = (recipe.data.max_len,)  # one program a beam size
        found, _ = translate_texts(recipe, params, folder, lines, whole, beam_size=size)
        return [one[0].text if one else "" for one in found]

    def measure(hypotheses: Sequence[str], part: Pairs) -> tuple[str, float]:
        return score(recipe, hypotheses, part)[0]

    return seq2seq_figures.figures(
        recipe.model,
        params,
        folder,
        test,
        [_load_vocabulary(folder, side) for side in SIDES],
        max_len=recipe.data.max_len,
        try_beam=try_beam,
        measure=measure,
    )


def translate_lines(
    run: Any,
    lines: Iterable[str],
    *,
    beam_size: int = 5,
    n_best: int = 1,
    length_penalty: str | None = None,
) -> Iterator[tuple[list[Translation], list[str]]]:
    """Translates lines in their order. See `Run.translate`."""
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is {n_best} and the beam {beam_size}: give 1 to the beam's size.")
    shapes: tuple[int, ...] | None = None
    for start, chunk in enumerate(_chunks(lines, CHUNK)):
        found, problems, shapes = _translate_chunk(
            run.sized,
            run.params,
            run.path,
            chunk,
            shapes,
            first=start * CHUNK + 1,
            beam_size=beam_size,
            n_best=n_best,
            length_penalty=length_penalty,
        )
        yield from zip(found, problems, strict=True)


def translate_texts(
    recipe: Any,
    params: PyTree,
    folder: Path,
    lines: Sequence[str],
    shapes: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[list[list[Translation]], list[list[str]]]:
    """The n best targets of each line, and what was wrong with it."""
    return _translate_chunk(recipe, params, folder, lines, shapes, **options)[:2]


def _translate_chunk(
    recipe: Any,
    params: PyTree,
    folder: Path,
    lines: Sequence[str],
    shapes: tuple[int, ...] | None,
    *,
    first: int = 1,
    beam_size: int,
    n_best: int = 1,
    length_penalty: str | None = None,
) -> tuple[list[list[Translation]], list[list[str]], tuple[int, ...]]:
    """Translates lines in batches of few shapes, which it chooses where none are given."""
    longest = recipe.data.max_len
    source, target = (_load_vocabulary(folder, side) for side in SIDES)
    encoded, problems = encode_lines(lines, source, max_len=longest, first=first)
    length_penalty = length_penalty or recipe.evaluation.length_penalty
    order = sorted(range(len(lines)), key=lambda place: len(encoded[place]))
    if shapes is None:
        lengths = [len(ids) for ids in encoded if ids] or [longest]
        shapes = choose_lengths(lengths, count=SHAPES - 1)
        shapes = shapes if shapes[-1] == longest else (*shapes, longest)
    found: list[list[Translation]] = [[] for _ in lines]
    for bucket in bucket_batches([encoded[place] for place in order], shapes, AT_ONCE):
        decoded = _search(
            model=recipe.model,
            params=params,
            source=bucket.ids,
            source_lengths=bucket.lengths,
            bos_id=BOS,
            eos_id=EOS,
            max_len=longest,
            beam_size=beam_size,
            n_best=n_best,
            length_penalty="none" if beam_size == 1 else length_penalty,
            forbidden=(PAD, BOS, UNKNOWN),
        )
        tokens, scores, lengths = map(np.asarray, (decoded.tokens, decoded.scores, decoded.lengths))
        for row, place in enumerate(bucket.places):
            if place >= 0:
                found[order[place]] = [
                    Translation(target.decode(ids[:length]), float(value))
                    for ids, length, value in zip(
                        tokens[row].tolist(), lengths[row], scores[row], strict=True
                    )
                    if length
                ]
    return found, problems, shapes


def load_test(folder: Path) -> Pairs:
    """The pairs that a run holds to be judged by."""
    lines = (folder / "eval/test.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    return Pairs(
        tuple(item["source"] for item in items),
        tuple(tuple(item["references"]) for item in items),
        "test",
    )


def _judge_loss(recipe: Any, params: PyTree, folder: Path, test: Pairs) -> tuple[float, int]:
    """Nats a token of the first references by teacher forcing, and the number of tokens."""
    source, target = (
        encode_lines(lines, _load_vocabulary(folder, side), max_len=1 << 20)[0]
        for lines, side in zip((test.sources, test.targets), SIDES, strict=True)
    )
    batches = PairBatches(
        source, target, batch_size=AT_ONCE, max_len=recipe.data.max_len, count=SHAPES
    )
    totals = np.zeros(2)
    for place in range(len(batches)):
        totals += np.asarray(_batch_loss(recipe.model, params, batches[place]), np.float64)
    return float(totals[0] / totals[1]), int(totals[1])


@functools.partial(jax.jit, static_argnames="model")
def _batch_loss(model, params, batch):
    still = model.clone(**{name: 0.0 for name in _rates(model)})
    loss_fn = make_translation_loss(still, bos_id=BOS)
    return loss_fn(params, batch, jax.random.key(0))[1]["loss"]


def _rates(model: Any) -> list[str]:
    """Names of the model's probabilities of dropping something."""
    return [field.name for field in dataclasses.fields(model) if field.name.endswith("dropout")]


@functools.lru_cache(maxsize=8)
def _read_vocabulary(content: str) -> AnyVocabulary:
    return load_token_vocabulary(content)


def _load_vocabulary(folder: Path, side: str) -> AnyVocabulary:
    return _read_vocabulary((folder / f"vocab.{side}.json").read_text(encoding="utf-8"))


def _make_vocabularies(data: Any, train: Pairs) -> tuple[AnyVocabulary, AnyVocabulary]:
    options = {
        "lowercase": data.lowercase,
        "min_count": data.min_count,
        "max_size": data.max_vocab,
    }
    if data.joint:
        both = make_token_vocabulary(
            (*train.sources, *train.targets), unit=data.source_unit, **options
        )
        return both, both
    return (
        make_token_vocabulary(train.sources, unit=data.source_unit, **options),
        make_token_vocabulary(train.targets, unit=data.target_unit, **options),
    )


def _start_vectors(
    recipe: Any, side: str, path: str, vocabulary: AnyVocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a side's token table whose vectors are known, and these."""
    known = KeyedVectors.load(path)
    dim = getattr(recipe.model, "embed_dim", getattr(recipe.model, "width", None))
    if known.dim != dim:
        raise ValueError(
            f"data.{side}_vectors has vectors of {known.dim} numbers, but the model's token "
            f"vectors have {dim}: set model.embed_dim to {known.dim}, or train others."
        )
    rows = [row for row, token in enumerate(vocabulary.tokens) if token in known]
    if not rows:
        raise ValueError(
            f"data.{side}_vectors {path} has none of the {len(vocabulary)} tokens of the {side}: "
            "give vectors of its words."
        )
    values = np.stack([known[vocabulary.tokens[row]] for row in rows]).astype(np.float32)
    return np.array(rows, np.int32), values


def _init(model: Any, vectors: dict[str, tuple[np.ndarray, np.ndarray]], key: Array) -> PyTree:
    one = jnp.ones((1, 1), jnp.int32)
    params = model.init(key, one, one[0], one)["params"]
    for side, (rows, values) in vectors.items():
        shared = side == "source" and getattr(model, "shared", False)
        name = "target_embedding" if shared else f"{side}_embedding"
        table = params[name]["embedding"].at[rows].set(values)
        params = {**params, name: {**params[name], "embedding": table}}
    return params


def _pack(test: Pairs, most: int | None) -> bytes:
    items = list(zip(test.sources, test.references, strict=True))
    if most is not None and most < len(items):  # data may be sorted
        items = [items[place * len(items) // most] for place in range(most)]
    return "".join(
        json.dumps({"source": source, "references": references}, ensure_ascii=False) + "\n"
        for source, references in items
    ).encode()


def _chunks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
