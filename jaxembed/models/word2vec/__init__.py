"""Word2vec: skip-gram and CBOW with negative sampling, hierarchical and full softmax."""

from jaxembed.models.word2vec.config import RowSGD, Step, WindowPairs, make_step, tuned_optim
from jaxembed.models.word2vec.modules import CBOW, Objective, SkipGram
from jaxembed.models.word2vec.sampling import huffman_tree
from jaxembed.models.word2vec.step import Axes, train_block
from jaxembed.models.word2vec.tables import Tables, make_tables

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
    "make_step",
    "make_tables",
    "train_block",
    "tuned_optim",
]
