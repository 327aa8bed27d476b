"""Losses: pure functions of arrays, unreduced and masked."""

from jaxembed.losses.sampled import full_softmax, hierarchical_softmax, negative_sampling

__all__ = ["full_softmax", "hierarchical_softmax", "negative_sampling"]
