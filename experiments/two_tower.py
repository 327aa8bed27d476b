r"""Queries and documents in one space, as of Yi et al. 2019 (https://doi.org/10.1145/3298689.3346996).

python -m experiments.two_tower --data docstring-pairs --workdir runs/two-tower

The default set is the first lines of docstrings with the names and signatures of their functions.
Each result stands beside BM25's on the same queries and candidates. Few pairs want an encoder to
begin with, and what is known to be wrong:

python -m experiments.two_tower --data PATH/sts/trecqa-wang --start PATH/all-MiniLM-L6-v2 \
    --loss info-nce --hard-negatives 4 --start-scale 20 --lr 2e-5 --batch-size 16 --epochs 3 \
    --max-length 64 --workdir runs/trecqa
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from experiments.baselines import judge
from jaxembed import load_encoder
from jaxembed.cli import run_experiment
from jaxembed.data import TextPairs
from jaxembed.metrics import rank
from jaxembed.models import Contrastive, DualEncoder
from jaxembed.nn import BagOfWords, TextTransformer
from jaxembed.recipe import Recipe
from jaxembed.run import Run
from jaxembed.tasks.dual_encoder import load_tests
from jaxembed.tasks.pretrained import load_pretrained
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --loss.chunk_size 512 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "docstring-pairs"
    """docstring-pairs, PATH (TREC-QA, Cranfield, a table or a folder of them), or tfds:NAME."""
    query: str = "query"
    """Column or feature of queries."""
    document: str = "document"
    """Column or feature of documents."""
    negative: str | None = None
    """Column or feature of documents known to be wrong."""
    tower: Literal["transformer", "bag"] = "bag"
    shared: bool = True
    """One tower for both sides."""
    start: str | None = None
    """A pretrained encoder that both sides begin with, instead of a tower of a kind and size."""
    hard_negatives: int = 0
    """Known wrong documents drawn for each query, where the data have some."""
    vocab: int = 6000
    width: int = 256
    layers: int = 2
    dim: int = 256
    max_length: int = 48
    loss: Literal["clip", "info-nce", "sigmoid", "candidates"] = "clip"
    start_scale: float = 1 / 0.07
    lr: float = 2e-3
    batch_size: int = 512
    epochs: int = 20
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    width = config.width
    if config.negative is not None and not config.hard_negatives:
        raise ValueError("--negative is given, but none is drawn: give --hard-negatives 1 or more.")
    tower = BagOfWords(config.vocab, width, config.max_length)
    if config.tower == "transformer":
        tower = TextTransformer(
            config.vocab,
            width,
            config.layers,
            4 * width,
            max(1, width // 32),
            max_length=config.max_length,
            pool="mean",
            dropout=0.1,
        )
    if config.start is not None:
        tower = load_pretrained(config.start, max_length=config.max_length).tower
    bias = -10.0 if config.loss == "sigmoid" else None
    doc = None if config.shared else tower
    return Recipe(
        model=DualEncoder(
            tower,
            doc,
            projection=0 if config.start else config.dim,
            start_scale=config.start_scale,
            start_bias=bias,
        ),
        data=TextPairs(config.data, config.query, config.document, config.negative, on_bad="skip"),
        loss=Contrastive(config.loss, config.hard_negatives),
        optim=Adam(
            lr=config.lr,
            schedule="cosine",
            warmup=0.05,
            batch_size=config.batch_size,
            clip_norm=1.0,
        ),
        epochs=config.epochs,
        seed=config.seed,
        start=config.start,
    )


def report(run: Run) -> None:
    """What the pretrained encoder finds untrained, and where to look."""
    if run.recipe.start is not None:
        longest = run.model.query.max_length
        encoder = load_encoder(run.recipe.start, max_length=longest)
        for name, test in load_tests(run.path).items():
            sides = (list(test.queries), list(test.candidates))
            queries, docs = (encoder.encode(texts, normalize=True) for texts in sides)
            found = judge(rank(queries @ docs.T, len(docs), pools=test.pools), test)
            print(f"{name}: mrr {found['mrr']:.4f} of {run.recipe.start} before training")
    print(f"Similarities, what is retrieved and a map are in {run.path / 'figures'}.")


if __name__ == "__main__":
    smoke = {"epochs": 1, "width": 16, "dim": 16, "batch_size": 2048, "max_length": 16}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
