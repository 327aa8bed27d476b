"""An encoder that learns from two random views of each image, as of Chen et al., 2020.

python -m experiments.augmented_pairs --data digits --workdir runs/views
python -m experiments.augmented_pairs --data PATH/images/fashion-mnist --epochs 20 --workdir runs/v

No label is used in training (https://arxiv.org/abs/2002.05709). A linear probe of the codes is to
beat that of the same encoder untrained, and that of PCA; all three are among the results.
"""

import dataclasses
import sys
from pathlib import Path

from jaxembed.cli import run_experiment
from jaxembed.data import ImageSet
from jaxembed.models import TwoViews, ViewEncoder
from jaxembed.recipe import Recipe
from jaxembed.run import Run
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --loss.shift 2 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "digits"
    """digits, tfds:NAME, or PATH of idx files, of pictures or of a .npy file."""
    channels: tuple[int, ...] = (32, 64)
    dim: int = 64
    temperature: float = 0.2
    smallest_crop: float = 0.5
    """Least share of an image that a view shows."""
    noise: float = 0.1
    lr: float = 1e-3
    batch_size: int = 256
    epochs: int = 100
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    return Recipe(
        model=ViewEncoder(channels=config.channels, dim=config.dim),
        data=ImageSet(config.data),
        loss=TwoViews(config.temperature, smallest_crop=config.smallest_crop, noise=config.noise),
        optim=Adam(lr=config.lr, schedule="cosine", batch_size=config.batch_size),
        epochs=config.epochs,
        seed=config.seed,
    )


def report(run: Run) -> None:
    """How far above no training."""
    if "linear_probe" in run.results:
        gain = run.results["linear_probe"].value - run.results["linear_probe/untrained"].value
        print(f"Training without labels is worth {100 * gain:.1f} points of the linear probe.")


if __name__ == "__main__":
    smoke = {"epochs": 2, "channels": (8,), "dim": 16}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
