"""Losses: pure functions of arrays, unreduced and masked."""

from jaxembed.losses.sampled import full_softmax, hierarchical_softmax, negative_sampling
from jaxembed.losses.sequence import token_cross_entropy

__all__ = [
    "full_softmax",
    "hierarchical_softmax",
    "negative_sampling",
    "token_cross_entropy",
]
