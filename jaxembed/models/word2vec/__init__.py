"""Word2vec: skip-gram and CBOW with negative sampling, hierarchical and full softmax."""

from jaxembed.models.word2vec.modules import CBOW, Objective, SkipGram
from jaxembed.models.word2vec.sampling import huffman_tree
from jaxembed.models.word2vec.step import (
    Axes,
    RowSGD,
    Step,
    Tables,
    WindowPairs,
    make_tables,
    streams_for,
    train_block,
    tuned_optim,
)

__all__ = [
    "CBOW",
    "Axes",
    "Objective",
    "RowSGD",
    "SkipGram",
    "Step",
    "Tables",
    "WindowPairs",
    "huffman_tree",
    "make_tables",
    "streams_for",
    "train_block",
    "tuned_optim",
]
