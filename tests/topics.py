"""A text whose neighbours are known: words of a topic occur together, and with no others."""

import functools

import numpy as np

from jaxembed.data import TextCorpus
from jaxembed.models import SkipGram
from jaxembed.models.word2vec import RowSGD, WindowPairs
from jaxembed.recipe import Recipe, WordEvaluation
from jaxembed.run import train_recipe
from jaxembed.tasks import word2vec

TOPICS = [[letter + other for other in "uvwxyz"] for letter in "abcdefgh"]
BLOCK = 1024  # so that the small text has several blocks; see `small_blocks`
STEPS = 16
QUESTIONS = ": first\nau av bu bv\nau av cu cv\n: gram-second\nau aw bu bw\n"
PAIRS = "au\tav\t9\nau\tbu\t1\ncx\tcy\t8\ncx\tdy\t0.5\n"


def small_blocks():
    """Makes the blocks small, for the rest of this process."""
    word2vec.BLOCK = BLOCK


def sentences(seed=0, count=400):
    """Sentences of eight words, each of one topic."""
    draws = np.random.default_rng(seed).integers(0, [8, *[6] * 8], (count, 9))
    return [[TOPICS[topic][word] for word in words] for topic, *words in draws.tolist()]


def write_text(path, seed=0):
    """Writes the text, a sentence a line, and returns its path."""
    path.write_text("".join(" ".join(words) + "\n" for words in sentences(seed)))
    return path


def make_recipe(source, **changes):
    """The recipe of the tests: four blocks an epoch, four epochs."""
    values = {
        "model": SkipGram(vocab_size=0, dim=8),
        "data": TextCorpus(str(source), min_count=1),
        "loss": WindowPairs(sample=0.0),
        "optim": RowSGD(lr=0.1),
        "epochs": 4,
    }
    return Recipe(**values | changes)


def finished_run(tmp_path_factory):
    """A finished run with analogies and word pairs, trained once in a session; do not change it."""
    return _finished_run(tmp_path_factory.getbasetemp())


@functools.cache
def _finished_run(base):
    folder = base / "topics"
    folder.mkdir()
    (folder / "questions.txt").write_text(QUESTIONS)
    (folder / "human.tsv").write_text(PAIRS)
    evaluation = WordEvaluation(str(folder / "questions.txt"), (str(folder / "human.tsv"),))
    recipe = make_recipe(write_text(folder / "text.txt"), evaluation=evaluation)
    return train_recipe(recipe, folder / "run")
