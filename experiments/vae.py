"""Variational autoencoders of images, as of Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114).

python -m experiments.vae --data digits --workdir runs/vae

On binary MNIST (--data tfds:mnist --binarization dynamic --hidden 512 512 --latent 16 --epochs 200)
the aim is 87 nats or less; experiments/benchmarks/results has what was measured on Fashion-MNIST.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxembed.cli import run_experiment
from jaxembed.data import ImageSet
from jaxembed.models import VAE, VariationalBound
from jaxembed.recipe import Recipe
from jaxembed.run import Run
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --loss.free_nats 0.1 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "digits"
    """digits, tfds:NAME, or PATH of idx files, of pictures or of a .npy file."""
    binarization: Literal["none", "threshold", "static", "dynamic"] = "threshold"
    """At .5; drawn once or anew by intensity; "none" is for the other likelihoods."""
    likelihood: Literal["bernoulli", "gaussian", "discretized-logistic"] = "bernoulli"
    architecture: Literal["dense", "conv"] = "dense"
    hidden: tuple[int, ...] = (256, 128)
    latent: int = 8
    prior: Literal["normal", "vamp"] = "normal"
    bound: Literal["elbo", "iwae"] = "elbo"
    samples: int = 1
    beta: float = 1.0
    warmup: float = 0.1
    """Share of the steps in which beta rises from 0."""
    lr: float = 1e-3
    batch_size: int = 128
    epochs: int = 300
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    is_elbo = config.bound == "elbo"
    return Recipe(
        model=VAE(
            shape=(),
            latent=config.latent,
            hidden=config.hidden,
            likelihood=config.likelihood,
            architecture=config.architecture,
            prior=config.prior,
        ),
        data=ImageSet(config.data, binarization=config.binarization),
        loss=VariationalBound(
            config.bound,
            beta=config.beta,
            warmup=config.warmup if is_elbo else 0.0,
            samples=config.samples,
        ),
        optim=Adam(lr=config.lr, schedule="cosine", batch_size=config.batch_size),
        epochs=config.epochs,
        seed=config.seed,
    )


def report(run: Run) -> None:
    """Where to look."""
    print(f"Samples, reconstructions and a walk between codes are in {run.path / 'figures'}.")


if __name__ == "__main__":
    smoke = {"epochs": 3, "hidden": (16,), "latent": 2}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
