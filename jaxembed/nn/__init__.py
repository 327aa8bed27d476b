"""Blocks that models share."""

from jaxembed.nn.activations import ACTIVATIONS, Activation
from jaxembed.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    attention_weights,
)
from jaxembed.nn.augmentation import (
    Views,
    add_noise,
    random_crop,
    random_shift,
    random_views,
    scale_to_ink,
)
from jaxembed.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from jaxembed.nn.dense import Dense, DenseStack
from jaxembed.nn.normalization import LayerNorm
from jaxembed.nn.pooling import (
    AttentionPooling,
    pool_layers,
    pool_pieces,
    pool_tokens,
    pooling_weights,
)
from jaxembed.nn.recurrent import Recurrent, RecurrentStack
from jaxembed.nn.text import BagOfWords, TextTransformer
from jaxembed.nn.transformer import (
    TransformerLayer,
    causal_mask,
    sinusoidal_positions,
)
from jaxembed.nn.vision import VISION_SIZES, ResNet, VisionTransformer, scale_bytes, vision_size

__all__ = [
    "ACTIVATIONS",
    "VISION_SIZES",
    "Activation",
    "AdditiveAttention",
    "AttentionPooling",
    "BagOfWords",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "Dense",
    "DenseStack",
    "DotAttention",
    "GeneralAttention",
    "LayerNorm",
    "MultiHeadAttention",
    "Recurrent",
    "RecurrentStack",
    "ResNet",
    "TextTransformer",
    "TransformerLayer",
    "Views",
    "VisionTransformer",
    "add_noise",
    "attention_weights",
    "causal_mask",
    "pool_layers",
    "pool_pieces",
    "pool_tokens",
    "pooling_weights",
    "random_crop",
    "random_shift",
    "random_views",
    "scale_bytes",
    "scale_to_ink",
    "sinusoidal_positions",
    "vision_size",
]
