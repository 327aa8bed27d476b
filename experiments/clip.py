r"""Images and sentences in one space, as of Radford et al. 2021 (https://arxiv.org/abs/2103.00020).

python -m experiments.clip --data glyphs --workdir runs/clip
python -m experiments.clip --data PATH/images/emoji --channels 3 --epochs 80 --workdir runs/emoji
python -m experiments.clip --data PATH/images/emoji --channels 3 --epochs 100 --loss clip \
    --text transformer --model.doc.layers 1 --model.doc.dropout 0.1 --lr 2e-3 --workdir runs/emoji-2

The default set is drawn characters with their Unicode names: trained on most fonts, tested on fonts
it has never seen and on characters whose names are new combinations of known words. What it has to
beat are the names of the training images with the largest cosine, pixel by pixel.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from experiments.baselines import crop_ink, judge, nearest_pixels
from jaxembed.cli import run_experiment
from jaxembed.data import ImageCaptions, load_captions
from jaxembed.models import Contrastive, DualEncoder
from jaxembed.nn import BagOfWords, ResNet, TextTransformer, Views, VisionTransformer
from jaxembed.recipe import Recipe
from jaxembed.run import Run
from jaxembed.tasks.pretrained import load_pretrained
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --loss.views.noise 0.1 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "glyphs"
    """glyphs, PATH (emoji, clip art, a folder with captions.csv, tar shards), or tfds:NAME."""
    size: int = 32
    """Side that images are scaled to."""
    channels: int = 1
    """1 for grey, 3 for colours."""
    languages: tuple[str, ...] = ("en",)
    """Of emoji's captions."""
    vision: Literal["vit", "resnet"] = "resnet"
    filters: int = 16
    """Channels of the ResNet's first stage."""
    with_ink: bool | None = None
    """The ResNet sees each image a second time, its ink scaled to the whole image; by default of
    glyphs, which are drawn on black."""
    layers: int = 2
    """Stages of the ResNet, or layers of the ViT."""
    patch: int = 4
    """Of the ViT."""
    text: Literal["transformer", "bag"] = "bag"
    """A bag of words knows no order, which names of characters do without."""
    start: str | None = None
    """PATH of a folder of Hugging Face or sentence-transformers, whose encoder is then the text
    tower instead of --text's."""
    width: int = 128
    """Of the text tower and the ViT."""
    dim: int = 128
    loss: Literal["clip", "info-nce", "sigmoid", "candidates"] = "candidates"
    """Against the captions of a batch, or against all candidates there are."""
    start_scale: float = 30.0
    lr: float = 4e-3
    batch_size: int = 256
    epochs: int = 40
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    width, heads = config.width, max(1, config.width // 32)
    sizes = {"width": width, "hidden": 4 * width, "heads": heads}
    with_ink = config.data == "glyphs" if config.with_ink is None else config.with_ink
    vision = ResNet((1,) * config.layers, config.filters, False, "medium", "flat", with_ink)
    if config.vision == "vit":
        vision = VisionTransformer(patch=config.patch, layers=config.layers, pool="mean", **sizes)
    text = TextTransformer(layers=2, pool="mean", max_length=32, **sizes)
    if config.text == "bag":
        text = BagOfWords(width=width, max_length=32)
    if config.start is not None:
        text = load_pretrained(config.start, max_length=32).tower
    bias = -10.0 if config.loss == "sigmoid" else None
    return Recipe(
        model=DualEncoder(
            vision, text, projection=config.dim, start_scale=config.start_scale, start_bias=bias
        ),
        data=ImageCaptions(
            config.data,
            size=config.size,
            channels=config.channels,
            languages=config.languages,
        ),
        loss=Contrastive(config.loss, views=Views(2, 0.2, 0.2, 0.2, 0.05)),
        optim=Adam(
            lr=config.lr,
            schedule="cosine",
            warmup=0.05,
            batch_size=config.batch_size,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        epochs=config.epochs,
        seed=config.seed,
        start=config.start,
    )


def report(run: Run) -> None:
    """What nearest pixels find on each test, and where to look."""
    splits = load_captions(run.recipe.data)
    ways = {"pixels": lambda images: images}
    if run.recipe.data.source == "glyphs":  # white on black, and not all of one size
        ways["pixels, scaled to the ink"] = crop_ink
    for way, change in ways.items():
        train = change(splits.train)
        for name, test in splits.tests.items():
            again = dataclasses.replace(splits, tests={name: change(test)}).retrieval(name)
            found = judge(nearest_pixels(train, splits.names[name], again), again)
            print(
                f"{name}: recall@1 {found['recall_at_1']:.4f}, recall@5 {found['recall_at_5']:.4f} "
                f"of the nearest training images by {way}"
            )
    print(f"Similarities, what is retrieved and a map are in {run.path / 'figures'}.")


if __name__ == "__main__":
    smoke = {"epochs": 1, "size": 8, "width": 32, "layers": 1, "dim": 16, "filters": 4}
    smoke |= {"batch_size": 2048}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
