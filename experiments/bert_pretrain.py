"""Pre-trains a BERT of any size, as of Devlin et al. 2019 (https://arxiv.org/abs/1810.04805).

python -m experiments.bert_pretrain --data docstrings --workdir runs/bert

Masked words and next sentences of a text: one sentence a line, an empty line between documents.
Accuracy on text held out stands beside guesses by the counts of words and of pairs of neighbours.
"""

import dataclasses
import sys
from pathlib import Path

from jaxembed.cli import run_experiment
from jaxembed.data import MaskedWords, PieceCorpus
from jaxembed.models import Bert
from jaxembed.recipe import Recipe
from jaxembed.run import Run
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --loss.rate 0.2 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "docstrings"
    """docstrings, tfds:NAME, or PATH of a text file or a folder of them."""
    tokenizer: str = "wordpiece"
    """wordpiece or bytes learns one from the text; else PATH of a tokenizer.json or vocab.txt."""
    vocab_size: int = 4096
    length: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    whole_words: bool = False
    next_sentence: bool = True
    lr: float = 2e-3
    batch_size: int = 32
    epochs: int = 6
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of seconds."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    return Recipe(
        model=Bert(
            vocab_size=0,
            width=config.width,
            heads=config.heads,
            hidden=4 * config.width,
            layers=config.layers,
            max_length=config.length,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            word_head=True,
            next_head=config.next_sentence,
        ),
        data=PieceCorpus(
            config.data,
            tokenizer=config.tokenizer,
            vocab_size=config.vocab_size,
            length=config.length,
        ),
        loss=MaskedWords(whole_words=config.whole_words, next_sentence=config.next_sentence),
        optim=Adam(
            lr=config.lr,
            schedule="linear",
            warmup=0.05,
            batch_size=config.batch_size,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        epochs=config.epochs,
        seed=config.seed,
    )


def report(run: Run) -> None:
    """Where to look."""
    print(f"Accuracy by the words' frequency is drawn in {run.path / 'figures'}.")


if __name__ == "__main__":
    smoke = {"epochs": 1, "width": 16, "layers": 1, "vocab_size": 300, "batch_size": 512}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
