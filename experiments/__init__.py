"""Experiments: one short script a result."""
