"""Word2vec as a task: text in, word vectors out."""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxembed.data import (
    EMBEDDED,
    Corpus,
    Vocabulary,
    encode_corpus,
    make_batches,
    open_corpus,
    read_sentences,
)
from jaxembed.metrics.words import (
    evaluate_analogies,
    evaluate_word_pairs,
    read_analogies,
    read_word_pairs,
)
from jaxembed.models.word2vec import (
    Axes,
    Step,
    make_step,
    make_tables,
    train_block,
)
from jaxembed.models.word2vec.modules import uniform_init
from jaxembed.tasks import word2vec_figures
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.train import TrainState, make_state, put_tree, tree_shardings
from jaxembed.vectors import KeyedVectors

LANES = 16  # tables are padded to a multiple: whole cache lines, and up to 16 shards of a row
BLOCK = 1 << 18  # raw ids that reach the device at once
SAMPLE = 50_000  # ids kept in the run, on which its loss can be recomputed

_judge = jax.jit(train_block, static_argnames="step", donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """Blocks of all epochs in order, each with its learning rates; a source for `make_batches`."""

    corpus: Corpus
    block_size: int
    epochs: int
    rates: tuple[float, float]

    def __len__(self) -> int:
        return self.epochs * len(self.corpus.blocks(self.block_size))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        blocks = self.corpus.blocks(self.block_size)
        epoch, block = divmod(index, len(blocks))
        ids = len(self.corpus)
        edges = np.minimum(np.array([block, block + 1]) * self.block_size, ids)
        progress = (epoch * ids + edges) / (self.epochs * ids)
        first, last = self.rates
        rates = first + (last - first) * progress
        return {"tokens": blocks[block]["tokens"], "rates": rates.astype(np.float32)}


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Encodes the text, or opens it where an earlier call has; see `Task`."""
    if recipe.model.dim < 1:
        raise ValueError(f"model.dim is {recipe.model.dim}; give 1 or more.")
    files = _evaluation_files(recipe.evaluation)
    path = cache / f"ids-{jax.process_index()}.int32"
    data = recipe.data
    try:
        corpus = open_corpus(path)
    except (FileNotFoundError, ValueError):  # not there, or damaged
        corpus = encode_corpus(
            data.source if texts is None else texts,
            path,
            min_count=data.min_count,
            max_vocab=data.max_vocab,
            tokenizer=data.tokenizer,
            lowercase=data.lowercase,
        )
    vocabulary = corpus.vocabulary
    if len(vocabulary) < 2:
        raise ValueError(
            f"the vocabulary has one word, {vocabulary.words[0]!r}: lower min_count, "
            "or give more text."
        )
    if recipe.model.vocab_size not in (0, len(vocabulary)):
        raise ValueError(
            f"model.vocab_size is {recipe.model.vocab_size}, but the text has {len(vocabulary)} "
            "words: leave it 0, and choose words by data.min_count and data.max_vocab."
        )
    for _, source in _named_pairs(recipe.evaluation):
        # Too few known pairs shall be found now rather than after the training.
        same = np.ones((len(vocabulary), 1), np.float32)
        evaluate_word_pairs(vocabulary.words, same, read_word_pairs(source))
    step = make_step(recipe.model, recipe.loss, recipe.optim, len(corpus))
    _check_mesh(recipe, step)
    versions = {}
    if data.source in EMBEDDED:
        versions = EMBEDDED[data.source].versions()
    elif data.source.startswith("tfds:"):
        versions = {"tensorflow-datasets": importlib.metadata.version("tensorflow-datasets")}
    resolved = {
        "vocab_size": len(vocabulary),
        "words": corpus.total_words,
        "kept_words": corpus.kept_words,
        "sentences": corpus.sentences,
        "fingerprint": corpus.fingerprint,
        "streams": step.streams,
        "versions": versions,
    }
    sample = " ".join(map(str, corpus.read(0, SAMPLE)))
    files |= {"vocab.json": vocabulary.to_json(), "eval/ids.txt": sample.encode()}
    if data.tokenizer is not None:
        files["tokenizer.json"] = Path(data.tokenizer).read_bytes()
    return Prepared(corpus, resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes tables, step and blocks; see `Task`."""
    corpus: Corpus = prepared.data
    init_key, train_key, _ = _keys(recipe)
    step = make_step(recipe.model, recipe.loss, recipe.optim, len(corpus))

    def start() -> TrainState:
        # `width`, since `dim` is not cut: here the dimension is the only one that can be.
        # Made where it lies, as a table may be larger than one device.
        shapes = abstract_params(recipe, prepared.resolved)
        axes = dict.fromkeys(shapes, (None, "width"))
        make = functools.partial(_init, recipe, prepared.resolved)
        params = jax.jit(make, out_shardings=tree_shardings(mesh, shapes, axes))(init_key)
        return dataclasses.replace(put_tree(mesh, make_state({})), params=params)

    tables = _tables(recipe, step, corpus.vocabulary)
    block_size = min(BLOCK, -(-len(corpus) // 1024) * 1024)
    rates = (recipe.optim.lr, recipe.optim.final_lr)
    blocks = _Schedule(corpus, block_size, recipe.epochs, rates)
    batches = make_batches(
        blocks, batch_size=None, seed=0, shuffle=False, epochs=1, process_index=0, process_count=1
    )
    return Training(
        step_fn=jax.tree_util.Partial(_make_step_fn(step, mesh), train_key, tables),
        start=start,
        batches=batches,
        steps=len(blocks),
        batch_axis=None,
        work_metric="words",
        total_work=float(recipe.epochs * corpus.kept_words),
        log_every=max(1, len(blocks) // 500),
    )


def abstract_params(recipe: Any, resolved: dict[str, Any]) -> PyTree:
    """Says shape and dtype of the two padded tables; see `Task`."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: _init(recipe, resolved, key))


def judged_by_stored_files(recipe: Any, folder: Path) -> Any:
    """Points the evaluation at the copies in the run; see `Task`."""
    names = [name for name, _ in _named_pairs(recipe.evaluation)]
    evaluation = dataclasses.replace(
        recipe.evaluation,
        analogies=recipe.evaluation.analogies and str(folder / "eval/analogies.txt"),
        pairs=tuple(str(folder / f"eval/{name}.txt") for name in names),
    )
    return dataclasses.replace(recipe, evaluation=evaluation)


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Loss on the stored sample, analogies and word pairs; `params` are donated. See `Task`."""
    vocabulary = Vocabulary.load(folder / "vocab.json")
    ids = np.array((folder / "eval/ids.txt").read_text().split(), np.int32)
    step = make_step(recipe.model, recipe.loss, recipe.optim, len(ids))
    # One group: a small program, compiled for one pass over a few words.
    step = dataclasses.replace(step, loss_every=1, streams=step.group)
    tables = _tables(recipe, step, vocabulary)
    # At rate 0 the tables come back as they were; donated, they are not copied.
    params, totals = _judge(
        params, jnp.asarray(ids), jnp.zeros(2), _keys(recipe)[2], tables, step=step
    )
    loss, count = (float(value) for value in totals["loss"])
    results = {"loss": Metric(loss / max(count, 1.0), int(count), 1e-4)}
    keyed = vectors(recipe, params, folder)
    limit = recipe.evaluation.restrict_vocab
    analogies = folder / "eval/analogies.txt"
    if analogies.exists():
        scores = evaluate_analogies(
            keyed.keys, keyed.matrix, read_analogies(analogies), restrict_vocab=limit
        )
        for name in ("overall", "semantic", "syntactic"):
            score = getattr(scores, name)
            if score.total:
                label = "analogies" if name == "overall" else f"analogies/{name}"
                results[label] = Metric(score.accuracy, score.total, 0.002)
    for name, _ in _named_pairs(recipe.evaluation):
        pairs = read_word_pairs(folder / f"eval/{name}.txt")
        scores = evaluate_word_pairs(keyed.keys, keyed.matrix, pairs)
        results[name] = Metric(scores.spearman, scores.count, 0.002)
    return results


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the input vectors by word; see `Task`."""
    vocabulary = Vocabulary.load(folder / "vocab.json")
    matrix = np.asarray(params["input"])[:, : recipe.model.dim]
    return KeyedVectors(vocabulary.words, matrix, vocabulary.counts)


def embed(run: Any, source: Any) -> np.ndarray:
    """The mean vector of each sentence's known words; a sentence a line, read as the text was."""
    data = run.recipe.data
    tokenizer = None if data.tokenizer is None else run.path / "tokenizer.json"
    sentences, words = [], []
    for piece, is_end in read_sentences(source, tokenizer=tokenizer, lowercase=data.lowercase):
        words += piece
        if is_end:
            sentences.append(words)
            words = []
    return run.vectors.sentence_vectors(sentences)


def _evaluation_files(evaluation: Any) -> dict[str, bytes]:
    """The files to judge by, each read once to see that it can be used."""
    named = _named_pairs(evaluation)
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(
            f"evaluation.pairs has two files of the same name: {', '.join(sorted(names))}; results "
            "are reported by name, so rename one."
        )
    if evaluation.analogies is not None:
        named.append(("analogies", evaluation.analogies))
    files = {}
    for name, source in named:
        (read_analogies if name == "analogies" else read_word_pairs)(source)
        files[f"eval/{name}.txt"] = Path(source).read_bytes()
    return files


def _check_mesh(recipe: Any, step: Step) -> None:
    """Raises unless the streams and the tables divide over the mesh."""
    mesh, groups = recipe.mesh, step.streams // step.group
    if groups % mesh.data:
        raise ValueError(
            f"mesh.data is {mesh.data}, but this text is trained in {step.streams} streams in "
            f"groups of {step.group}: choose a divisor of {groups}, a smaller optim.group, or "
            "more text."
        )
    if _width(recipe) % mesh.model:
        raise ValueError(
            f"mesh.model is {mesh.model}, but vectors of {recipe.model.dim} numbers are stored as "
            f"{_width(recipe)}: choose a divisor of that."
        )


def _named_pairs(evaluation: Any) -> list[tuple[str, str]]:
    """Names under which files of word pairs are stored and reported."""
    return [(f"pairs/{Path(path).stem}", path) for path in evaluation.pairs]


def _keys(recipe: Any) -> Array:
    """The keys of initialisation, training and evaluation."""
    return jax.random.split(jax.random.key(recipe.seed), 3)


def _tables(recipe: Any, step: Step, vocabulary: Vocabulary) -> Any:
    return make_tables(
        step,
        vocabulary.counts,
        sample=recipe.loss.sample,
        exponent=recipe.loss.exponent,
        damping=recipe.optim.damping,
    )


def _width(recipe: Any) -> int:
    """Columns of the stored tables."""
    return -(-recipe.model.dim // LANES) * LANES


def _init(recipe: Any, resolved: dict[str, Any], key: Array) -> dict[str, Array]:
    """The module's initial tables, with columns of zeros up to a multiple of `LANES`."""
    vocab_size, dim = resolved["vocab_size"], recipe.model.dim
    width = _width(recipe)
    rows = vocab_size - (recipe.model.objective == "hierarchical-softmax")
    table = uniform_init(key, (vocab_size, dim))
    return {
        "input": jnp.pad(table, ((0, 0), (0, width - dim))),
        "output": jnp.zeros((rows, width)),
    }


@functools.lru_cache(maxsize=8)
def _make_step_fn(step: Step, mesh: Mesh) -> Any:
    """Makes the StepFn; key and tables come first so that they need not be compiled in."""
    block = functools.partial(train_block, step=step)
    if mesh.size > 1:
        split, whole = jax.P(None, "model"), jax.P()
        block = jax.shard_map(
            functools.partial(block, axes=Axes("data", "model")),
            mesh=mesh,
            in_specs=(split, whole, whole, whole, whole),
            out_specs=(split, whole),
            check_vma=False,
        )

    def step_fn(key, tables, state, batch):
        block_key = jax.random.fold_in(key, state.step)
        params, metrics = block(state.params, batch["tokens"], batch["rates"], block_key, tables)
        return TrainState(state.step + 1, params, state.opt_state), metrics

    return step_fn


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Loss over words, map of words, analogies by section; see `Task`."""
    return word2vec_figures.figures(recipe, vectors(recipe, params, folder), folder)
