"""Word vectors as of Mikolov et al. 2013 (https://arxiv.org/abs/1310.4546) on any text.

python -m experiments.word2vec --data docstrings --workdir runs/word2vec

On the first 100 MB of English Wikipedia the defaults answer about 40% of the analogy questions
among the 30,000 most frequent words; experiments/benchmarks/results has the measurements.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxembed.cli import run_experiment
from jaxembed.data import TextCorpus
from jaxembed.metrics.words import neighbour_table
from jaxembed.models import CBOW, SkipGram
from jaxembed.models.word2vec import Objective, WindowPairs, tuned_optim
from jaxembed.recipe import MeshShape, Recipe, WordEvaluation
from jaxembed.run import Run

QUERIES = ("array", "function", "random", "maximum", "file", "matrix", "king", "france", "water")


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --optim.lr 0.05 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "docstrings"
    """PATH of a text or folder, a named data set, or tfds:NAME."""
    architecture: Literal["skip-gram", "cbow"] = "skip-gram"
    objective: Objective = "negative-sampling"
    dim: int = 100
    window: int = 5
    negatives: int = 5
    sample: float = 1e-3
    min_count: int = 5
    max_vocab: int | None = None
    epochs: int = 5
    seed: int = 1
    eval_analogies: str | None = None
    """File of analogy questions."""
    eval_pairs: tuple[str, ...] = ()
    """Files of word pairs with human scores."""
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    module = {"skip-gram": SkipGram, "cbow": CBOW}[config.architecture]
    return Recipe(
        model=module(vocab_size=0, dim=config.dim, objective=config.objective),
        data=TextCorpus(config.data, config.min_count, config.max_vocab),
        loss=WindowPairs(config.window, config.sample, config.negatives),
        optim=tuned_optim(config.architecture, config.objective),
        evaluation=WordEvaluation(config.eval_analogies, config.eval_pairs),
        epochs=config.epochs,
        seed=config.seed,
        mesh=MeshShape(),
    )


def report(run: Run) -> None:
    """Nearest neighbours of a few words, which people look at first."""
    vectors = run.vectors
    counts = dict(zip(vectors.keys, vectors.counts, strict=True))
    known = [word for word in QUERIES if counts.get(word, 0) >= 100] or list(vectors.keys[:5])
    print(neighbour_table(vectors.keys, vectors.matrix, known, min(6, len(vectors) - 1)))


if __name__ == "__main__":
    smoke = {"dim": 16, "epochs": 1, "max_vocab": 2_000}
    options = {"smoke": smoke, "report": report, "description": __doc__, "returns_memory": True}
    sys.exit(run_experiment(make_recipe, Config, **options))
