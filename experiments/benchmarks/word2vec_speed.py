"""Training speed beside gensim and fastText, interleaved in one run.

python -m experiments.benchmarks.word2vec_speed [--text PATH] [--words 3000000] [--rounds 3]

Each round trains every system once on the same words, with the vocabulary of the whole text:
100 dimensions, window 5, 5 negatives, two threads. Rates are in words of the text (of the
vocabulary) a second; reading the text and compiling are timed apart. Ratios are per round.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks.record import record
from experiments.benchmarks.word2vec_quality import make_gensim, write_lines
from experiments.word2vec import Config, make_recipe
from jaxembed.data import encode_corpus
from jaxembed.tasks import word2vec
from jaxembed.tasks.task import Prepared
from jaxembed.train import make_mesh, train

MODES = list(
    itertools.product(("skip-gram", "cbow"), ("negative-sampling", "hierarchical-softmax"))
)


def prepare_ours(options: Any, corpus: Any, words: int, device_count: int = 1) -> Callable:
    """Returns a function that trains once and returns seconds and words."""
    import jax

    part = dataclasses.replace(corpus, kept_words=min(words, corpus.kept_words), sentences=1)
    config = Config(
        workdir=Path("unused"),
        architecture=options.architecture,
        objective=options.objective,
        sample=options.sample,
        epochs=1,
    )
    recipe = make_recipe(config)
    resolved = {"vocab_size": len(corpus.vocabulary)}
    mesh = make_mesh(1, device_count, jax.devices()[:device_count])

    def run() -> tuple[float, int]:
        training = word2vec.training(recipe, Prepared(part, resolved, {}), mesh)
        state = jax.block_until_ready(training.start())
        started = time.perf_counter()
        state = train(
            training.step_fn,
            state,
            training.batches,
            steps=training.steps,
            mesh=mesh,
            batch_axis=None,
            work_metric="words",
        )
        jax.block_until_ready(state)
        return time.perf_counter() - started, part.kept_words

    return run


def prepare_gensim(options: Any, whole: str, part: str) -> Callable:
    """Returns a function that trains once and returns seconds and words."""
    model = make_gensim(options, 0.025, 1)
    model.build_vocab(corpus_file=whole)

    def run() -> tuple[float, int]:
        lines = sum(1 for _ in open(part))
        started = time.perf_counter()
        _, words = model.train(
            corpus_file=part, total_words=lines * 1000, total_examples=lines, epochs=1
        )
        return time.perf_counter() - started, words

    return run


def prepare_fasttext(options: Any, part: str) -> Callable | None:
    """Trains fastText without subwords, if it is installed; its time includes reading."""
    try:
        import fasttext
    except ImportError:
        return None
    if options.objective != "negative-sampling":
        return None
    model = "skipgram" if options.architecture == "skip-gram" else "cbow"

    def once(epochs: int) -> float:
        started = time.perf_counter()
        fasttext.train_unsupervised(
            part, model=model, dim=100, ws=5, neg=5, minCount=5, epoch=epochs, thread=2, maxn=0,
            t=options.sample, lr=0.025, verbose=0,
        )  # fmt: skip
        return time.perf_counter() - started

    def run() -> tuple[float, int]:
        words = sum(len(line.split()) for line in open(part))
        return once(2) - once(1), words  # the vocabulary is read in both

    return run


def main() -> None:
    """Measures all four modes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="docstrings")
    parser.add_argument("--words", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--modes", nargs="*", default=[" ".join(mode) for mode in MODES])
    parser.add_argument("--without-fasttext", action="store_true", help="it is the slowest")
    options = parser.parse_args()
    options.epochs = 1
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        corpus = encode_corpus(options.text, Path(folder) / "ids", min_count=5)
        reading = time.perf_counter() - started
        whole, part = (str(Path(folder) / name) for name in ("whole.txt", "part.txt"))
        write_lines(options.text, Path(whole))
        write_lines(options.text, Path(part), options.words)
        for mode in options.modes:
            options.architecture, options.objective = mode.split()
            systems = {
                "jaxembed": prepare_ours(options, corpus, options.words),
                "gensim": prepare_gensim(options, whole, part),
                "fasttext": None if options.without_fasttext else prepare_fasttext(options, part),
            }
            systems = {name: run for name, run in systems.items() if run is not None}
            started = time.perf_counter()
            first, _ = systems["jaxembed"]()
            rates: dict[str, list[float]] = {name: [] for name in systems}
            failures = {}
            for _ in range(options.rounds):
                for name, run in systems.items():
                    if name in failures:
                        continue
                    try:
                        seconds, words = run()
                    except RuntimeError as error:  # fastText may stop with "Encountered NaN."
                        failures[name] = str(error)
                    else:
                        rates[name].append(words / seconds)
            fastest = statistics.median(rates["jaxembed"])
            row = {
                "text_words": corpus.total_words,
                "reading_words_per_second": round(corpus.total_words / reading),
                "architecture": options.architecture,
                "objective": options.objective,
                "sample": options.sample,
                "words": options.words,
                "rounds": options.rounds,
                "compile_seconds": round(first - options.words / fastest, 1),
            }
            for name, values in rates.items():
                if name in failures:
                    row[f"{name}/failed"] = failures[name]
                    continue
                row[f"{name}/words_per_second"] = round(statistics.median(values))
                row[f"{name}/range"] = [round(min(values)), round(max(values))]
                if name != "jaxembed":
                    ratios = [a / b for a, b in zip(rates["jaxembed"], values, strict=True)]
                    row[f"ratio_to_{name}"] = round(statistics.median(ratios), 2)
            record("word2vec_speed", row)


if __name__ == "__main__":
    main()
