"""Models: one file or one folder each."""

from jaxembed.models.autoencoder import AE, Reconstruction, make_autoencoder_loss
from jaxembed.models.seq2seq import Seq2Seq, TransformerSeq2Seq
from jaxembed.models.vae import VAE
from jaxembed.models.vae_loss import VariationalBound, make_iwae_loss, make_vae_loss
from jaxembed.models.view_encoder import TwoViews, ViewEncoder, make_view, make_view_loss
from jaxembed.models.word2vec import CBOW, SkipGram

__all__ = [
    "AE",
    "CBOW",
    "VAE",
    "Reconstruction",
    "Seq2Seq",
    "SkipGram",
    "TransformerSeq2Seq",
    "TwoViews",
    "VariationalBound",
    "ViewEncoder",
    "make_autoencoder_loss",
    "make_iwae_loss",
    "make_vae_loss",
    "make_view",
    "make_view_loss",
]
