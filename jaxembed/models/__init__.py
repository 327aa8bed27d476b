"""Models: one file or one folder each."""

from jaxembed.models.autoencoder import AE, Reconstruction, make_autoencoder_loss
from jaxembed.models.bert import Bert, BertOutput, SentenceBert
from jaxembed.models.bert_loss import make_pretraining_loss, predict_masked
from jaxembed.models.dual_encoder import DualEncoder, make_clip, make_siglip
from jaxembed.models.dual_encoder_loss import Contrastive, make_contrastive_loss
from jaxembed.models.gpt import Gpt
from jaxembed.models.sentence_loss import (
    SimilarityHead,
    make_regression_loss,
    make_sentence_pair_loss,
    sentence_vectors,
)
from jaxembed.models.seq2seq import (
    Seq2Seq,
    TokenCrossEntropy,
    TransformerSeq2Seq,
    make_translation_loss,
)
from jaxembed.models.vae import VAE
from jaxembed.models.vae_loss import VariationalBound, make_iwae_loss, make_vae_loss
from jaxembed.models.view_encoder import TwoViews, ViewEncoder, make_view, make_view_loss
from jaxembed.models.word2vec import CBOW, SkipGram

__all__ = [
    "AE",
    "CBOW",
    "VAE",
    "Bert",
    "BertOutput",
    "Contrastive",
    "DualEncoder",
    "Gpt",
    "Reconstruction",
    "SentenceBert",
    "Seq2Seq",
    "SimilarityHead",
    "SkipGram",
    "TokenCrossEntropy",
    "TransformerSeq2Seq",
    "TwoViews",
    "VariationalBound",
    "ViewEncoder",
    "make_autoencoder_loss",
    "make_clip",
    "make_contrastive_loss",
    "make_iwae_loss",
    "make_pretraining_loss",
    "make_regression_loss",
    "make_sentence_pair_loss",
    "make_siglip",
    "make_translation_loss",
    "make_vae_loss",
    "make_view",
    "make_view_loss",
    "predict_masked",
    "sentence_vectors",
]
