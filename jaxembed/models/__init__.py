"""Models: one file or one folder each."""

from jaxembed.models.seq2seq import Seq2Seq, TransformerSeq2Seq
from jaxembed.models.word2vec import CBOW, SkipGram

__all__ = ["CBOW", "Seq2Seq", "SkipGram", "TransformerSeq2Seq"]
