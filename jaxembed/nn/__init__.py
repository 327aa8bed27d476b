"""Blocks that models share."""

from jaxembed.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from jaxembed.nn.dense import ACTIVATIONS, Activation, DenseStack

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DenseStack",
]
