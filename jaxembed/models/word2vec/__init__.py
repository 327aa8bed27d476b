"""Word2vec: skip-gram and CBOW with negative sampling, hierarchical and full softmax."""

from jaxembed.models.word2vec.modules import CBOW, Objective, SkipGram
from jaxembed.models.word2vec.sampling import huffman_tree
from jaxembed.models.word2vec.step import Axes, Step, Tables, make_tables, train_block

__all__ = [
    "CBOW",
    "Axes",
    "Objective",
    "SkipGram",
    "Step",
    "Tables",
    "huffman_tree",
    "make_tables",
    "train_block",
]
