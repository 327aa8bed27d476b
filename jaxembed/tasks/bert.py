"""Pre-training of BERT as a task: text in, a model of words in their context out."""

import functools
import importlib.metadata
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxembed.atomic import write_atomically
from jaxembed.data import (
    EMBEDDED,
    Pieces,
    PretrainingExamples,
    TextTokenizer,
    encode_pieces,
    load_tokenizer,
    make_tokenizer,
    split_documents,
)
from jaxembed.data.masking import longest_sentence
from jaxembed.data.pieces import read_lines_of
from jaxembed.metrics.bigrams import count_bigrams
from jaxembed.models import Bert, make_pretraining_loss, predict_masked
from jaxembed.tasks import bert_figures
from jaxembed.tasks.gradient import check_batch, train_streamed
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.vectors import KeyedVectors

HELD_OUT = "eval/held_out.npz"
AT_ONCE = 100
POSITION_SCALE = 0.02  # root mean square, as BERT draws its tables


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Takes the text into pieces, or opens it where an earlier call has; see `Task`."""
    check_batch(recipe)
    data, model, task = recipe.data, recipe.model, recipe.loss
    if not model.word_head or model.next_head != task.next_sentence:
        raise ValueError(
            f"model.word_head is {model.word_head} and model.next_head {model.next_head}, but "
            f"loss.next_sentence is {task.next_sentence}: set word_head, and both others alike."
        )
    if model.max_length < data.length or (task.next_sentence and model.segments < 2):
        raise ValueError(
            f"data.length is {data.length}, but the model has {model.max_length} positions and "
            f"{model.segments} segments: give as many, and 2 for next sentences."
        )
    tokenizer, text = _read_text(data, cache, texts)
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise ValueError(
            f"model.vocab_size is {model.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} pieces: leave it 0."
        )
    train, held_out = split_documents(text, data.held_out, recipe.seed)
    abstract_params(recipe.with_sizes({"vocab_size": tokenizer.vocab_size}), {})
    options = {"task": task, "length": data.length, "seed": recipe.seed}
    examples = PretrainingExamples(train, tokenizer, epochs=recipe.epochs, **options)
    judged = PretrainingExamples(held_out, tokenizer, **options)
    versions = {}
    if data.source in EMBEDDED:
        versions = EMBEDDED[data.source].versions()
    elif data.source.startswith("tfds:"):
        versions = {"tensorflow-datasets": importlib.metadata.version("tensorflow-datasets")}
    resolved = {
        "vocab_size": tokenizer.vocab_size,
        "pieces": len(text.ids),
        "words": int(text.begins.sum()),
        "sentences": len(text.sentences) - 1,
        "documents": len(text.documents) - 1,
        "examples": len(examples.stretches),
        "held_out_pieces": len(held_out.ids),
        "fingerprint": text.fingerprint(),
        "versions": versions,
    }
    files = {
        "tokenizer.json": tokenizer.to_json().encode(),
        HELD_OUT: _pack_held_out(judged, recipe.evaluation.most, train, tokenizer),
    }
    return Prepared(examples, resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches; see `Task`."""
    loss_fn = make_pretraining_loss(recipe.model)
    init_fn = functools.partial(_init, recipe.model)
    return train_streamed(recipe, mesh, prepared.data, init_fn, loss_fn, is_whole_run=True)


def abstract_params(recipe: Any, resolved: dict[str, Any]) -> PyTree:
    """Says shape and dtype of the parameters; see `Task`."""
    del resolved
    return jax.eval_shape(functools.partial(_init, recipe.model), jax.random.key(0))


def judged_by_stored_files(recipe: Any, folder: Path) -> Any:
    """Returns the recipe itself: it names no files to be judged by; see `Task`."""
    del folder
    return recipe


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Hidden words of the text held out, beside guesses by counts, and next sentences."""
    stored = load_held_out(folder)
    word_losses, guesses, next_guesses = judge(recipe.model, params, stored)
    is_target = stored["targets"] >= 0
    targets = stored["targets"][is_target]
    count = len(targets)
    results = {
        "word_loss": Metric(float(word_losses[is_target].mean()), count, 1e-3),
        "word_accuracy": _accuracy(guesses[is_target], targets),
    }
    for name in ("unigram", "bigram", "bigram-both-sides"):
        results[f"word_accuracy/{name}"] = _accuracy(stored[name], targets)
    if next_guesses is not None:
        results["next_accuracy"] = _accuracy(next_guesses, stored["next"])
    return results


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the input vectors of the pieces, which know no context; see `Task`."""
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    pieces = tokenizer.pieces(range(recipe.model.vocab_size))
    return KeyedVectors(pieces, np.asarray(params["words"]["embedding"]))


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Loss, accuracy over the steps and by the words' frequency; see `Task`."""
    stored = load_held_out(folder)
    guesses = judge(recipe.model, params, stored)[1][stored["targets"] >= 0]
    return bert_figures.figures(folder, stored, guesses)


def load_held_out(folder: Path) -> dict[str, np.ndarray]:
    """The examples that a run holds to be judged by, and the guesses of counts."""
    with np.load(folder / HELD_OUT) as file:
        return {
            name: file[name].astype(np.int32) if file[name].dtype != bool else file[name]
            for name in file.files
        }


def judge(
    model: Bert, params: PyTree, examples: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Loss and best guess at each target, and the guess at the next sentence or None."""
    names = ("ids", "segments", "length", "places", "targets")
    count = len(examples["ids"])
    size = min(AT_ONCE, count)
    parts = []
    for start in range(0, count, size):
        batch = {name: examples[name][start : start + size] for name in names}
        left = size - len(batch["ids"])
        batch = {n: np.pad(v, [(0, left)] + [(0, 0)] * (v.ndim - 1)) for n, v in batch.items()}
        found = _judge_batch(model, params, batch)
        parts.append([np.asarray(array)[: size - left] for array in found])
    losses, guesses, *rest = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return losses, guesses, rest[0] if rest else None


@functools.partial(jax.jit, static_argnames="model")
def _judge_batch(model, params, batch):
    word_logits, next_logits = predict_masked(model, params, batch)
    targets = jnp.maximum(batch["targets"], 0)[..., None]
    chosen = jnp.take_along_axis(word_logits, targets, axis=-1)[..., 0]
    losses = jax.nn.logsumexp(word_logits, axis=-1) - chosen
    found = [losses, jnp.argmax(word_logits, axis=-1)]
    return [*found, jnp.argmax(next_logits, axis=-1)] if next_logits is not None else found


def _read_text(data: Any, cache: Path, texts: Iterable | None) -> tuple[TextTokenizer, Pieces]:
    """The tokenizer and the text; kept in the cache, as a resumed run asks again."""
    kept = cache / f"pieces-{jax.process_index()}.npz"
    names = cache / f"tokenizer-{jax.process_index()}.json"
    if kept.exists() and names.exists():
        with np.load(kept) as file:
            return load_tokenizer(names), Pieces(**{name: file[name] for name in file.files})
    cache.mkdir(parents=True, exist_ok=True)
    lines = cache / f"lines-{jax.process_index()}.txt"
    with open(lines, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in read_lines_of(texts or data.source))
    tokenizer = make_tokenizer(data, _lines_of(lines))
    text = encode_pieces(_lines_of(lines), tokenizer, longest=longest_sentence(data.length))
    lines.unlink()
    names.write_text(tokenizer.to_json(), encoding="utf-8")
    with write_atomically(kept) as stream:
        np.savez(stream, **text._asdict())
    return tokenizer, text


def _lines_of(path: Path) -> Iterable[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _pack_held_out(
    examples: PretrainingExamples, most: int, train: Pieces, tokenizer: TextTokenizer
) -> bytes:
    """Examples to be judged by and what counts of the text to learn from make of them."""
    chosen = [examples[index] for index in range(min(most, len(examples)))]
    stored = {name: np.stack([one[name] for one in chosen]) for name in chosen[0]}
    is_target = stored["targets"] >= 0
    # Counts are given the true neighbours, hidden or not: more than the model sees.
    original = stored["ids"].copy()
    rows = np.nonzero(is_target)[0]
    original[rows, stored["places"][is_target]] = stored["targets"][is_target]
    before, after = (original[rows, stored["places"][is_target] + step] for step in (-1, 1))
    bigrams = count_bigrams(train.ids, tokenizer.vocab_size)
    stored["unigram"] = np.full(len(rows), bigrams.most_frequent())
    stored["bigram"] = bigrams.guess_after(before)
    stored["bigram-both-sides"] = bigrams.guess_between(before, after)
    stored["counts"] = bigrams.counts
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: array.astype(np.int32) for name, array in stored.items()})
    return stream.getvalue()


def _accuracy(guesses: np.ndarray, truth: np.ndarray) -> Metric:
    return Metric(float(np.mean(guesses == truth)), len(truth), 3.0 / len(truth))


def _init(model: Bert, key: Array) -> PyTree:
    """Parameters as the model draws them, but position vectors are waves to start from.

    A neighbour then lies one rotation away from every place, which attention finds sooner. Waves
    are from 4 places long to 4 times the longest text: of those of Vaswani et al., 2017, which go
    to 60,000, most would say nothing within a short one.
    """
    params = model.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    table = params["positions"]["embedding"]
    half = table.shape[1] // 2
    rates = 0.5 * np.pi * len(table) ** (-np.arange(half) / half)
    angles = np.arange(len(table))[:, None] * rates[None]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    waves = np.pad(waves, ((0, 0), (0, table.shape[1] % 2))) * (POSITION_SCALE * 2**0.5)
    return params | {"positions": {"embedding": jnp.asarray(waves, table.dtype)}}
