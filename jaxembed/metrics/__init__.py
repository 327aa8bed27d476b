"""Metrics: what embeddings are judged by."""
