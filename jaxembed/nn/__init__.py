"""Blocks that models share."""

from jaxembed.nn.activations import ACTIVATIONS, Activation
from jaxembed.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    attention_weights,
)
from jaxembed.nn.augmentation import add_noise, random_crop, random_shift
from jaxembed.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from jaxembed.nn.dense import DenseStack
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
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DenseStack",
    "DotAttention",
    "GeneralAttention",
    "MultiHeadAttention",
    "Recurrent",
    "RecurrentStack",
    "TransformerLayer",
    "add_noise",
    "attention_weights",
    "causal_mask",
    "random_crop",
    "random_shift",
    "sinusoidal_positions",
]
