"""Fine-tunes an encoder for sentence similarity on SICK, and judges it on SICK and STS-B.

python -m experiments.sentence_similarity --data PATH/sts [--model PATH] [--loss regression]

"contrastive" draws pairs with a score of 4 and more together, as Gao et al. 2021
(https://arxiv.org/abs/2104.08821, section 4); "dropout" uses no scores, and draws together two
vectors of each sentence, of which dropout hid other parts (section 3); "regression" fits a head to
the scores, as Tai et al. 2015 (https://arxiv.org/abs/1503.00075, section 4.2). Writes a folder of
sentence-transformers.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import scipy.stats
import tyro

from experiments.sts import SETS, correlate, read_pairs
from jaxembed import load_encoder
from jaxembed.cli import run_guarded
from jaxembed.convert.sentence_transformers import save_sentence_transformer
from jaxembed.data import make_batches
from jaxembed.models import SimilarityHead, make_regression_loss, make_sentence_pair_loss
from jaxembed.train import Adam, gradient_step, make_optimizer, make_state, train

TRAIN = ("sick/SICK_train.txt", 1, 2, 3, True)
LENGTH = 40  # SICK's longest has 38 tokens


@dataclasses.dataclass
class Config:
    """The script's flags."""

    data: str
    model: str = "checkpoints/bert-tiny-docstrings"
    loss: Literal["contrastive", "dropout", "regression"] = "contrastive"
    dropout: float = 0.1
    """Of the loss "dropout"."""
    out: Path = Path("runs/sentence_similarity")
    epochs: int = 4
    batch_size: int = 32
    lr: float = 1e-3
    """For the shipped model; 5e-5 or so for one with millions of parameters."""
    seed: int = 1
    smoke: bool = False
    """The first 64 pairs, once."""


def encode_pairs(encoder, pairs: list[tuple]) -> list[dict[str, np.ndarray]]:
    """Pairs as examples; scores go from 1 to 5."""
    examples = [{"score": np.float32((pair[2] - 1) / 4)} for pair in pairs]
    length = min(LENGTH, encoder.max_length)
    for number, side in enumerate(("first", "second")):
        texts = [pair[number] for pair in pairs]
        encoded = encoder.tokenizer.encode(texts, max_length=length)
        for example, one in zip(examples, encoded, strict=True):
            example[side] = np.pad(one.ids, (0, length - len(one)))
            example[f"{side}_length"] = np.int32(len(one))
    return examples


def main(config: Config) -> None:
    encoder = load_encoder(config.model)
    model, params = encoder.model.clone(pooler=False), {"encoder": jax.device_get(encoder.params)}
    pairs = read_pairs(Path(config.data) / TRAIN[0], *TRAIN[1:])[: 64 if config.smoke else None]
    head, key = SimilarityHead(), jax.random.key(config.seed)
    if config.loss == "regression":
        zeros = jax.numpy.zeros((1, model.width))
        params["head"] = head.init(key, zeros, zeros)["params"]
        loss_fn = make_regression_loss(model, head)
    else:
        if config.loss == "dropout":
            sentences = dict.fromkeys(text for pair in pairs for text in pair[:2])
            pairs = [(sentence, sentence, 5.0) for sentence in sentences]
            model = model.clone(dropout=config.dropout, attention_dropout=config.dropout)
        pairs = [pair for pair in pairs if pair[2] >= 4]
        loss_fn = make_sentence_pair_loss(model)
    examples = encode_pairs(encoder, pairs)
    epochs = 1 if config.smoke else config.epochs
    adam = Adam(lr=config.lr, schedule="linear", warmup=0.1, batch_size=config.batch_size)
    optimizer = make_optimizer(adam, epochs * -(-len(examples) // config.batch_size))
    batches = make_batches(
        examples, batch_size=config.batch_size, seed=config.seed, shuffle=True, epochs=epochs
    )
    state = make_state(params, optimizer)
    params = train(gradient_step(loss_fn, optimizer, key=key), state, batches).params
    save_sentence_transformer(config.out, model, params["encoder"], encoder.tokenizer)
    for name, (file, *columns) in SETS.items():
        judged = read_pairs(Path(config.data) / file, *columns)[: 100 if config.smoke else None]
        for stage, one in (("before", encoder), ("after", load_encoder(config.out))):
            print(f"{name:12} {stage:6} Spearman of cosines {correlate(one, judged)[0]:.4f}")
        if config.loss == "regression":
            sides = [load_encoder(config.out).encode([p[n] for p in judged]) for n in (0, 1)]
            scores = head.apply({"params": params["head"]}, *sides)
            rank = scipy.stats.spearmanr(scores, [pair[2] for pair in judged]).statistic
            print(f"{name:12} head   Spearman {rank:.4f}")


if __name__ == "__main__":
    flags = tyro.cli(Config, description=__doc__)
    sys.exit(run_guarded(lambda: main(flags), "sentence_similarity"))
