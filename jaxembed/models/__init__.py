"""Models: one file or one folder each."""

from jaxembed.models.autoencoder import AE, Reconstruction, make_autoencoder_loss
from jaxembed.models.bert import Bert, BertOutput
from jaxembed.models.bert_loss import make_pretraining_loss, predict_masked
from jaxembed.models.gpt import Gpt
from jaxembed.models.sentence_loss import (
    SimilarityHead,
    make_contrastive_loss,
    make_regression_loss,
    sentence_vectors,
)
from jaxembed.models.seq2seq import Seq2Seq, TransformerSeq2Seq
from jaxembed.models.vae import VAE
from jaxembed.models.vae_loss import VariationalBound, make_iwae_loss, make_vae_loss
from jaxembed.models.word2vec import CBOW, SkipGram

__all__ = [
    "AE",
    "CBOW",
    "VAE",
    "Bert",
    "BertOutput",
    "Gpt",
    "Reconstruction",
    "Seq2Seq",
    "SimilarityHead",
    "SkipGram",
    "TransformerSeq2Seq",
    "VariationalBound",
    "make_autoencoder_loss",
    "make_contrastive_loss",
    "make_iwae_loss",
    "make_pretraining_loss",
    "make_regression_loss",
    "make_vae_loss",
    "predict_masked",
    "sentence_vectors",
]
