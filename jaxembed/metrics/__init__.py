"""Metrics: what embeddings are judged by."""

from jaxembed.metrics.bm25 import BM25, best_rank, rank, split_words
from jaxembed.metrics.codes import (
    anomaly_auroc,
    knn_accuracy,
    linear_probe_accuracy,
    pca_codes,
)
from jaxembed.metrics.generative import (
    active_units,
    bits_per_dimension,
    importance_log_likelihood,
    latent_activity,
)
from jaxembed.metrics.retrieval import (
    average_precision_at_k,
    mrr,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from jaxembed.metrics.translation import (
    corpus_bleu,
    sentence_bleu,
    sequence_error_rate,
    word_error_rate,
)
from jaxembed.metrics.zero_shot import (
    PHOTO_TEMPLATES,
    class_vectors,
    classify,
    zero_shot_accuracy,
)

__all__ = [
    "BM25",
    "PHOTO_TEMPLATES",
    "active_units",
    "anomaly_auroc",
    "average_precision_at_k",
    "best_rank",
    "bits_per_dimension",
    "class_vectors",
    "classify",
    "corpus_bleu",
    "importance_log_likelihood",
    "knn_accuracy",
    "latent_activity",
    "linear_probe_accuracy",
    "mrr",
    "ndcg_at_k",
    "pca_codes",
    "precision_at_k",
    "rank",
    "recall_at_k",
    "sentence_bleu",
    "sequence_error_rate",
    "split_words",
    "word_error_rate",
    "zero_shot_accuracy",
]
