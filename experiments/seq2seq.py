"""Sequences to sequences: pronunciation and translation, decoded by beam search.

python -m experiments.seq2seq --workdir runs/cmudict
python -m experiments.seq2seq --data PATH/multi30k --source de --target en --workdir runs/de-en
python -m experiments.seq2seq --data tfds:ted_hrlr_translate/pt_to_en --source pt --target en ...

A folder holds parallel files SPLIT.LANGUAGE. Then `jaxembed translate RUN < in.txt > out.txt`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Literal

from jaxembed.cli import run_experiment
from jaxembed.data import PairSet
from jaxembed.metrics import corpus_bleu
from jaxembed.models import Seq2Seq, TokenCrossEntropy, TransformerSeq2Seq
from jaxembed.recipe import Recipe, TranslationEvaluation
from jaxembed.run import Run
from jaxembed.train import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; any other field of the recipe is reached as --model.layers 2 and the like."""

    workdir: Path
    """Run directory; the same command resumes."""
    data: str = "cmudict"
    """cmudict, PATH of a folder, or tfds:NAME."""
    source: str | None = None
    """Source language, or name of the feature."""
    target: str | None = None
    """Target language, or name of the feature."""
    test: str = "test"
    """Split that results are measured on."""
    unit: Literal["words", "subwords"] = "subwords"
    """Tokens of sentences; of cmudict they are letters and phones."""
    vocab: int = 8000
    """Most tokens of each vocabulary."""
    architecture: Literal["recurrent", "transformer"] = "recurrent"
    context: Literal["last", "mean", "additive", "dot", "general"] = "general"
    """What a recurrent decoder sees of the source."""
    width: int = 192
    layers: int = 1
    dropout: float = 0.2
    label_smoothing: float = 0.1
    lr: float = 2e-3
    batch_size: int = 128
    epochs: int = 12
    beam: int = 5
    length_penalty: str = "gnmt^1"
    """Of beam search: none, length^A or gnmt^A; this one was best on the validation words."""
    most: int | None = None
    """Pairs tested at most."""
    seed: int = 1
    checkpoint_seconds: float = 60.0
    smoke: bool = False
    """A run of a minute."""


def make_recipe(config: Config) -> Recipe:
    """The recipe that the flags stand for."""
    if config.data == "cmudict":
        data = PairSet("cmudict", max_len=32)
        measure = "error-rates"
    else:
        languages = tuple(name for name in (config.source, config.target) if name)
        data = PairSet(
            config.data,
            languages,
            test=config.test,
            source_unit=config.unit,
            target_unit=config.unit,
            lowercase=True,
            min_count=2,
            max_vocab=config.vocab,
            max_len=80,
        )
        measure = "bleu"
    if config.architecture == "recurrent":
        model = Seq2Seq(
            source_vocab=0,
            target_vocab=0,
            embed_dim=config.width,
            width=config.width,
            layers=config.layers,
            bidirectional=config.context != "dot",
            context=config.context,
            dropout=config.dropout,
        )
    else:
        model = TransformerSeq2Seq(
            source_vocab=0,
            target_vocab=0,
            width=config.width,
            hidden=4 * config.width,
            encoder_layers=config.layers,
            decoder_layers=config.layers,
            dropout=config.dropout,
        )
    return Recipe(
        model=model,
        data=data,
        loss=TokenCrossEntropy(config.label_smoothing),
        optim=Adam(
            lr=config.lr,
            schedule="cosine",
            warmup=0.05,
            batch_size=config.batch_size,
            clip_norm=1.0,
        ),
        evaluation=TranslationEvaluation(measure, config.beam, config.length_penalty, config.most),
        epochs=config.epochs,
        seed=config.seed,
    )


def report(run: Run) -> None:
    """A few translations, and how to make others."""
    evaluation = run.recipe.evaluation
    if evaluation.measure == "bleu":
        print(corpus_bleu(["a"], ["a"], lowercase=run.recipe.data.lowercase).signature)
    examples = (run.path / "eval/test.jsonl").read_text(encoding="utf-8").splitlines()[:5]
    lines = [json.loads(example)["source"] for example in examples]
    found = run.translate(lines, beam_size=evaluation.beam)
    for line, (best, _) in zip(lines, found, strict=True):
        print(f"  {line} -> {best[0].text if best else ''}")
    print(f"Others by: jaxembed translate {run.path} < in.txt > out.txt")


if __name__ == "__main__":
    smoke = {"width": 32, "epochs": 1, "vocab": 1000, "most": 200}
    sys.exit(run_experiment(make_recipe, Config, smoke=smoke, report=report, description=__doc__))
