"""Blocks that models share."""

from jaxembed.nn.activations import ACTIVATIONS, Activation
from jaxembed.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    attention_weights,
)
from jaxembed.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from jaxembed.nn.dense import DenseStack
from jaxembed.nn.pooling import (
    AttentionPooling,
    pool_layers,
    pool_pieces,
    pool_tokens,
    pooling_weights,
)
from jaxembed.nn.recurrent import Recurrent, RecurrentStack
from jaxembed.nn.transformer import (
    TransformerLayer,
    causal_mask,
    sinusoidal_positions,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "AdditiveAttention",
    "AttentionPooling",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DenseStack",
    "DotAttention",
    "GeneralAttention",
    "MultiHeadAttention",
    "Recurrent",
    "RecurrentStack",
    "TransformerLayer",
    "attention_weights",
    "causal_mask",
    "pool_layers",
    "pool_pieces",
    "pool_tokens",
    "pooling_weights",
    "sinusoidal_positions",
]
