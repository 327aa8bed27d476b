"""Blocks that models share."""

from jaxembed.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    attention_weights,
)
from jaxembed.nn.recurrent import Recurrent, RecurrentStack
from jaxembed.nn.transformer import (
    ACTIVATIONS,
    TransformerLayer,
    causal_mask,
    sinusoidal_positions,
)

__all__ = [
    "ACTIVATIONS",
    "AdditiveAttention",
    "DotAttention",
    "GeneralAttention",
    "MultiHeadAttention",
    "Recurrent",
    "RecurrentStack",
    "TransformerLayer",
    "attention_weights",
    "causal_mask",
    "sinusoidal_positions",
]
