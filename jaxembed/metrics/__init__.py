"""Metrics: what embeddings and the sequences made from them are judged by."""

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

__all__ = [
    "average_precision_at_k",
    "corpus_bleu",
    "mrr",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "sentence_bleu",
    "sequence_error_rate",
    "word_error_rate",
]
