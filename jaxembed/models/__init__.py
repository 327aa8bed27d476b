"""Models: one file or one folder each."""

from jaxembed.models.word2vec import CBOW, SkipGram

__all__ = ["CBOW", "SkipGram"]
