"""Recurrent and Transformer encoder-decoders, with one interface for training and decoding."""

from jaxembed.models.seq2seq.loss import TokenCrossEntropy, make_translation_loss
from jaxembed.models.seq2seq.recurrent import Context, Seq2Seq
from jaxembed.models.seq2seq.transformer import TransformerSeq2Seq
from jaxembed.models.seq2seq.translate import translate

__all__ = [
    "Context",
    "Seq2Seq",
    "TokenCrossEntropy",
    "TransformerSeq2Seq",
    "make_translation_loss",
    "translate",
]
