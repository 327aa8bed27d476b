"""One word in many sentences: where, layer by layer, context enters its vector.

python -m experiments.word_in_context [--model RUN_OR_FOLDER] [--sentences FILE] [--out FOLDER]

Draws the vectors of each word with their senses, and prints for each layer, as Ethayarajh 2019
(https://arxiv.org/abs/1909.00512, figures 1 and 2) and with senses added: the mean cosine of one
word with itself (1 where context changes nothing) and of all words of the sentences with each
other, and the share of occurrences whose nearest other one has the same sense.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments.word_in_context_figures import draw_maps, draw_measures
from jaxembed import load_encoder
from jaxembed.cli import run_guarded
from jaxembed.metrics.context import mean_cosine, sense_accuracy

HERE = Path(__file__).parent


@dataclasses.dataclass
class Config:
    """The script's flags."""

    model: str = str(HERE.parent / "checkpoints/bert-tiny-docstrings")
    """A run, or a folder of Hugging Face or sentence-transformers."""
    sentences: Path = HERE / "evaluation/senses.tsv"
    """Lines of a word, its sense and a sentence with it, between tabs."""
    out: Path = Path("runs/word_in_context")
    smoke: bool = False
    """The first word alone."""


def read_senses(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Senses and sentences by word."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        word, sense, sentence = line.split("\t")
        found.setdefault(word, []).append((sense, sentence))
    return found


def find_words(encoder, word: str, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the word, and of all words, in each layer: [layers + 1, count, width]."""
    mine, others = [], []
    encoded = encoder.tokenizer.encode(sentences, max_length=encoder.max_length)
    for sentence, one, states in zip(
        sentences, encoded, encoder.hidden_states(sentences), strict=True
    ):
        numbers = range(one.words.max() + 1)
        spans = [one.offsets[one.words == number] for number in numbers]
        texts = [sentence[span[0, 0] : span[-1, 1]].lower() for span in spans]
        if word not in texts:
            raise ValueError(f"{sentence!r} has no word {word!r}: correct the file.")
        vectors = [states[:, one.words == number].mean(axis=1) for number in numbers]
        mine.append(vectors[texts.index(word)])
        others += vectors
    return np.stack(mine, axis=1), np.stack(others, axis=1)


def main(config: Config) -> None:
    """Measures, prints and draws."""
    encoder = load_encoder(config.model)
    measures = {}
    config.out.mkdir(parents=True, exist_ok=True)
    for word, lines in list(read_senses(config.sentences).items())[: 1 if config.smoke else None]:
        senses, sentences = map(list, zip(*lines, strict=True))
        mine, others = find_words(encoder, word, sentences)
        measures[word] = [
            (mean_cosine(layer), mean_cosine(all_words), sense_accuracy(layer, senses))
            for layer, all_words in zip(mine, others, strict=True)
        ]
        figure = Figure(figsize=(3.2 * len(mine), 3.4), dpi=120, layout="constrained")
        draw_maps(figure, word, mine, senses)
        figure.savefig(config.out / f"{word}.png")
    print("layer  " + "  ".join(f"{word:^20}" for word in measures))
    print("       " + "  ".join("itself  all   sense " for _ in measures))
    for layer, rows in enumerate(zip(*measures.values(), strict=True)):
        print(f"{layer:5}  " + "  ".join("{:.3f}  {:.3f}  {:.2f} ".format(*row) for row in rows))
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    draw_measures(figure, {word: np.array(rows) for word, rows in measures.items()})
    figure.savefig(config.out / "layers.png")
    print(f"Maps of each word and the curves are in {config.out}.")


if __name__ == "__main__":
    flags = tyro.cli(Config, description=__doc__)
    sys.exit(run_guarded(lambda: main(flags), "word_in_context"))
