"""Recommending items by a multinomial VAE, as of Liang et al. 2018 (https://arxiv.org/abs/1802.05814).

python -m experiments.mult_vae --data PATH --workdir runs/mult_vae

PATH is a folder with train.txt and test.txt, a user a line: `user item item ...`; or a set of
ratings from TensorFlow Datasets is named, tfds:movielens/100k-ratings.
"""

import dataclasses
import sys
from pathlib import Path

from jaxembed.cli import run_experiment
from jaxembed.data import HistorySet
from jaxembed.models import VAE, VariationalBound
from jaxembed.recipe import RankingEvaluation, Recipe
from jaxembed.run import Run
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --model.input_dropout 0.3 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str
    """PATH of a folder of histories, or tfds:NAME."""
    hidden: tuple[int, ...] = (600,)
    latent: int = 200
    beta: float = 0.2
    warmup: float = 0.5
    """Share of the steps in which beta rises from 0."""
    k: int = 20
    """Items recommended to a user."""
    lr: float = 1e-3
    batch_size: int = 500
    epochs: int = 30
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    return Recipe(
        model=VAE(
            shape=(),
            latent=config.latent,
            hidden=config.hidden,
            likelihood="multinomial",
            activation="tanh",
            input_norm="l2",
            input_dropout=0.5,
        ),
        data=HistorySet(config.data),
        loss=VariationalBound(beta=config.beta, warmup=config.warmup),
        optim=Adam(lr=config.lr, batch_size=config.batch_size),
        evaluation=RankingEvaluation(config.k),
        epochs=config.epochs,
        seed=config.seed,
    )


def report(run: Run) -> None:
    """What the model adds to recommending the same items to everyone."""
    names = [name for name in run.results if "/" not in name]
    for name in names:
        gain = run.results[name].value / max(run.results[f"{name}/popularity"].value, 1e-9)
        print(f"{name} is {gain:.1f} times that of the most popular items.")


if __name__ == "__main__":
    smoke = {"epochs": 1, "hidden": (8,), "latent": 4}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
