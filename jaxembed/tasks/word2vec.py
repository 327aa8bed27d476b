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

from jaxembed.data import EMBEDDED, Corpus, Vocabulary, encode_corpus, make_batches, open_corpus
from jaxembed.metrics.words import (
    evaluate_analogies,
    evaluate_word_pairs,
    read_analogies,
    read_word_pairs,
)
from jaxembed.models import CBOW
from jaxembed.models.word2vec import (
    Axes,
    Step,
    make_tables,
    streams_for,
    train_block,
)
from jaxembed.models.word2vec.modules import uniform_init
from jaxembed.tasks import word2vec_figures
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.train import TrainState, make_state, put_tree
from jaxembed.vectors import KeyedVectors

LANES = 16  # tables are padded to a multiple: whole cache lines, and up to 16 shards of a row
BLOCK = 1 << 18  # raw ids that reach the device at once
SAMPLE = 50_000  # ids kept in the run, on which its loss can be recomputed


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
    path = cache / f"ids-{jax.process_index()}.int32"
    data = recipe.data
    if path.exists():
        corpus = open_corpus(path)
    else:
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
        "streams": streams_for(len(corpus), recipe.optim),
        "versions": versions,
    }
    sample = " ".join(map(str, corpus.read(0, SAMPLE)))
    files = {"vocab.json": vocabulary.to_json(), "eval/ids.txt": sample.encode()}
    evaluation = recipe.evaluation
    for name, source in [("analogies", evaluation.analogies), *_named_pairs(evaluation)]:
        if source is not None:
            (read_analogies if name == "analogies" else read_word_pairs)(source)
            files[f"eval/{name}.txt"] = Path(source).read_bytes()
    return Prepared(corpus, resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes tables, step and blocks; see `Task`."""
    corpus: Corpus = prepared.data
    init_key, train_key, _ = _keys(recipe)
    step = _step(recipe, prepared.resolved["streams"])
    state = make_state(_init(recipe, prepared.resolved, init_key))
    params = put_tree(mesh, state.params, dict.fromkeys(state.params, (None, "dim")))
    state = dataclasses.replace(put_tree(mesh, state), params=params)
    tables = _tables(recipe, step, corpus.vocabulary)
    block_size = min(BLOCK, -(-len(corpus) // 1024) * 1024)
    rates = (recipe.optim.lr, recipe.optim.final_lr)
    blocks = _Schedule(corpus, block_size, recipe.epochs, rates)
    batches = make_batches(
        blocks, batch_size=None, seed=0, shuffle=False, epochs=1, process_index=0, process_count=1
    )
    return Training(
        step_fn=jax.tree_util.Partial(_make_step_fn(step, mesh), train_key, tables),
        state=state,
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


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Loss on the stored sample, analogies and word pairs; see `Task`."""
    vocabulary = Vocabulary.load(folder / "vocab.json")
    ids = np.array((folder / "eval/ids.txt").read_text().split(), np.int32)
    step = _step(recipe, streams_for(len(ids), recipe.optim))
    tables = _tables(recipe, step, vocabulary)
    _, totals = jax.jit(functools.partial(train_block, step=step))(
        params, jnp.asarray(ids), jnp.zeros(2), _keys(recipe)[2], tables
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


def _named_pairs(evaluation: Any) -> list[tuple[str, str]]:
    """Names under which files of word pairs are stored and reported."""
    return [(f"pairs/{Path(path).stem}", path) for path in evaluation.pairs]


def _keys(recipe: Any) -> Array:
    """The keys of initialisation, training and evaluation."""
    return jax.random.split(jax.random.key(recipe.seed), 3)


def _step(recipe: Any, streams: int) -> Step:
    loss, optim = recipe.loss, recipe.optim
    return Step(
        architecture="cbow" if isinstance(recipe.model, CBOW) else "skip-gram",
        objective=recipe.model.objective,
        window=loss.window,
        negatives=loss.negatives,
        streams=streams,
        length=optim.length,
        group=optim.group,
        shared=optim.shared,
        slots=optim.slots,
    )


def _tables(recipe: Any, step: Step, vocabulary: Vocabulary) -> Any:
    return make_tables(
        step,
        vocabulary.counts,
        sample=recipe.loss.sample,
        exponent=recipe.loss.exponent,
        damping=recipe.optim.damping,
    )


def _init(recipe: Any, resolved: dict[str, Any], key: Array) -> dict[str, Array]:
    """The module's initial tables, with columns of zeros up to a multiple of `LANES`."""
    vocab_size, dim = resolved["vocab_size"], recipe.model.dim
    width = -(-dim // LANES) * LANES
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
