"""Metrics: what embeddings are judged by."""

from jaxembed.metrics.retrieval import (
    average_precision_at_k,
    mrr,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

__all__ = ["average_precision_at_k", "mrr", "ndcg_at_k", "precision_at_k", "recall_at_k"]
