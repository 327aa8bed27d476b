"""Quality of word vectors beside gensim's: analogies and word similarity, several seeds.

python -m experiments.benchmarks.word2vec_quality --text PATH --wordeval PATH \
    --architecture skip-gram --objective negative-sampling --sample 1e-3 --seeds 1 2 3

`--text` is one endless line of words; `--wordeval` a folder with questions-words.txt and
EN-WS-353-ALL.txt, EN-SIMLEX-999.txt, EN-RG-65.txt. Settings were chosen on RG-65 and the even
sections of the analogies ("choose"); the odd sections, WS-353 and SimLex are reported ("report").
With `--gensim ALPHA` gensim is trained instead, on lines of 1,000 words, which are its documents.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.record import record
from experiments.word2vec import Config, make_recipe
from jaxembed import KeyedVectors, train_recipe
from jaxembed.data import read_sentences
from jaxembed.metrics.words import (
    evaluate_analogies,
    evaluate_word_pairs,
    read_analogies,
    read_word_pairs,
)

PAIRS = ("WS-353-ALL", "SIMLEX-999", "RG-65")
GENSIM_LINE = 1000


def judge(vectors: KeyedVectors, folder: Path) -> dict[str, float]:
    """All figures of one set of vectors; analogies among the 30,000 most frequent words."""
    sections = read_analogies(folder / "questions-words.txt")
    scores = evaluate_analogies(vectors.keys, vectors.matrix, sections, restrict_vocab=30_000)
    figures = {"analogies": scores.overall.accuracy}
    for name, first in (("choose", 0), ("report", 1)):
        half = scores.sections[first::2]
        right, asked = (sum(getattr(s, key) for s in half) for key in ("correct", "total"))
        figures[f"analogies/{name}"] = right / asked
    for name in PAIRS:
        pairs = read_word_pairs(folder / f"EN-{name}.txt")
        figures[name] = evaluate_word_pairs(vectors.keys, vectors.matrix, pairs).spearman
    similarity = figures["WS-353-ALL"], figures["SIMLEX-999"]
    figures["mean"] = float(np.mean([figures["analogies"], *similarity]))
    figures["mean/report"] = float(np.mean([figures["analogies/report"], *similarity]))
    figures["mean/choose"] = float(np.mean([figures["analogies/choose"], figures["RG-65"]]))
    return {name: round(float(value), 4) for name, value in figures.items()}


def train_ours(options: argparse.Namespace, seed: int) -> tuple[KeyedVectors, dict[str, Any]]:
    """Trains our recipe with the command's defaults, changed by --set."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            workdir=Path(folder) / "run",
            data=options.text,
            architecture=options.architecture,
            objective=options.objective,
            sample=options.sample,
            epochs=options.epochs,
            seed=seed,
        )
        changes = dict(change.split("=", 1) for change in options.set)
        recipe = make_recipe(config).override(changes)
        run = train_recipe(recipe, config.workdir, checkpoint_seconds=1e9)
        return run.vectors, dataclasses.asdict(recipe.optim) | {
            "mesh": dataclasses.asdict(recipe.mesh)
        }


def write_lines(text: str, path: Path, words: int | None = None) -> None:
    """Writes a text as lines of 1,000 words: gensim drops what is beyond 10,000 of a line."""
    stream = itertools.chain.from_iterable(tokens for tokens, _ in read_sentences(text))
    stream = itertools.islice(stream, words)
    with open(path, "w") as file:
        while line := list(itertools.islice(stream, GENSIM_LINE)):
            file.write(" ".join(line) + "\n")


def make_gensim(options: Any, alpha: float, seed: int) -> Any:
    """An untrained gensim model with the same settings as ours."""
    from gensim.models import Word2Vec

    is_tree = options.objective == "hierarchical-softmax"
    return Word2Vec(
        sg=int(options.architecture == "skip-gram"),
        hs=int(is_tree),
        negative=0 if is_tree else 5,
        sample=options.sample,
        alpha=alpha,
        vector_size=100,
        window=5,
        min_count=5,
        epochs=options.epochs,
        workers=2,
        seed=seed,
    )


def train_gensim(options: argparse.Namespace, seed: int) -> tuple[KeyedVectors, dict[str, Any]]:
    """Trains gensim from a file with two workers."""
    with tempfile.TemporaryDirectory() as folder:
        lines = str(Path(folder) / "lines.txt")
        write_lines(options.text, Path(lines))
        model = make_gensim(options, options.gensim, seed)
        model.build_vocab(corpus_file=lines)
        model.train(
            corpus_file=lines,
            total_words=model.corpus_total_words,
            total_examples=model.corpus_count,
            epochs=options.epochs,
        )
        return KeyedVectors(model.wv.index_to_key, model.wv.vectors), {"lr": options.gensim}


def main() -> None:
    """Trains and records one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--wordeval", required=True, type=Path)
    parser.add_argument("--architecture", default="skip-gram")
    parser.add_argument("--objective", default="negative-sampling")
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--gensim", type=float, metavar="ALPHA")
    options = parser.parse_args()
    for seed in options.seeds:
        started = time.monotonic()
        train = train_ours if options.gensim is None else train_gensim
        vectors, settings = train(options, seed)
        row = {"system": "jaxembed" if options.gensim is None else "gensim"}
        row |= {key: getattr(options, key) for key in ("architecture", "objective", "sample")}
        row |= {"seed": seed, "settings": settings, "seconds": round(time.monotonic() - started)}
        record("word2vec_quality", row | judge(vectors, options.wordeval))


if __name__ == "__main__":
    main()
