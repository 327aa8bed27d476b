"""CLIP of Hugging Face as a `DualEncoder`: images are queries, texts documents."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxembed.convert.huggingface.files import (
    Entry,
    PathLike,
    our_activation,
    read_folder,
    their_activation,
    to_params,
    to_tensors,
    write_folder,
)
from jaxembed.convert.huggingface.towers import (
    Preprocessing,
    flatten_patches,
    read_preprocessing,
    square_side,
    text_entries,
    unflatten_patches,
    vision_entries,
    write_preprocessing,
)
from jaxembed.data.image_processing import ImageProcessing
from jaxembed.models.dual_encoder import DualEncoder
from jaxembed.nn import TextTransformer, VisionTransformer

# What their configurations leave out.
_SIZES = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
_TEXT = _SIZES | {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}
_VISION = _SIZES | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "patch_size": 32,
}


def load_clip(folder: PathLike) -> tuple[DualEncoder, dict[str, Any], Preprocessing]:
    """Reads a folder of CLIP.

    Args:
        folder: Holds `config.json` and the weights as safetensors; and, for texts,
            `tokenizer.json`, for pictures, the settings of the image processor (CLIP's own where
            they are missing).

    Returns:
        The model, its parameters, float32 on the host, and what turns pictures and texts into its
        inputs.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the model is another one, or weights and configuration do
            not belong together.
    """
    config, tensors = read_folder(folder)
    if config.get("model_type") != "clip":
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}, not clip.")
    text = _TEXT | config.get("text_config", {})
    vision = _VISION | config.get("vision_config", {})
    model = DualEncoder(
        VisionTransformer(
            image=square_side(vision),
            patch=vision["patch_size"],
            pool="class",
            patch_bias=False,
            input_norm=True,
            **tower_fields(vision),
        ),
        TextTransformer(
            vocab=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            causal=True,
            pool="last",
            **tower_fields(text),
        ),
        projection=config.get("projection_dim", 512),
        start_scale=math.exp(config.get("logit_scale_init_value", 2.6592)),
    )
    params = to_params(_entries(model), flatten_patches(tensors), folder)
    height, width, _ = model.query.image
    image = ImageProcessing(size=(min(height, width),), crop=(height, width))
    preprocessing = read_preprocessing(
        folder, text, image, max_length=model.doc.max_length, fills_up=False
    )
    return model, params, preprocessing


def save_clip(
    folder: PathLike,
    model: DualEncoder,
    params: Mapping[str, Any],
    preprocessing: Preprocessing | None = None,
) -> None:
    """Writes a folder that Hugging Face opens as a CLIPModel.

    Args:
        folder: Made if need be.
        model: A model of CLIP's kind, as `load_clip` or `make_clip` makes it.
        params: Its parameters.
        preprocessing: Tokenizer and image processor; None writes neither, nor which token ends a
            text, where Hugging Face takes CLIP's vector.

    Raises:
        ValueError: If the model has parts that CLIP has not.
    """
    check_kind(model, "CLIP", pool="class", causal=True, has_bias=False)
    tensors = to_tensors(_entries(model), params)
    config = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.projection,
        "logit_scale_init_value": math.log(model.start_scale),
        "text_config": text_config(model.doc, "clip_text_model", preprocessing)
        | {"projection_dim": model.projection},
        "vision_config": vision_config(model.query, "clip_vision_model")
        | {"projection_dim": model.projection},
        "dtype": "float32",
    }
    write_folder(folder, config, unflatten_patches(tensors, model.query))
    if preprocessing is not None:
        write_preprocessing(folder, preprocessing, "CLIP")


def _entries(model: DualEncoder) -> Iterator[Entry]:
    yield from vision_entries(model.query)
    yield from text_entries(model.doc)
    for side, name in (("query", "visual"), ("doc", "text")):
        width = getattr(model, side).width
        kernel = f"{side}_projection/kernel"
        yield Entry(kernel, f"{name}_projection.weight", (model.projection, width), True)
    yield Entry("log_scale", "logit_scale", ())


def tower_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of towers take from their configuration."""
    return {
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "hidden": config["intermediate_size"],
        "heads": config["num_attention_heads"],
        "activation": our_activation(config, "hidden_act"),
        "epsilon": config["layer_norm_eps"],
    }


def _sizes(tower: VisionTransformer | TextTransformer, kind: str) -> dict[str, Any]:
    activation = their_activation(tower.activation)
    return {
        "model_type": kind,
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "intermediate_size": tower.hidden,
        "num_attention_heads": tower.heads,
        # One function under two names, of which these models use the second.
        "hidden_act": activation.replace("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_eps": tower.epsilon,
    }


def vision_config(tower: VisionTransformer, kind: str) -> dict[str, Any]:
    """Their configuration of an image tower."""
    height, width, channels = tower.image
    if height != width:
        raise ValueError(f"images are {height} x {width}: Hugging Face's towers want squares.")
    sizes = {"image_size": height, "patch_size": tower.patch, "num_channels": channels}
    return _sizes(tower, kind) | sizes


def text_config(
    tower: TextTransformer, kind: str, preprocessing: Preprocessing | None
) -> dict[str, Any]:
    """Their configuration of a text tower."""
    config = _sizes(tower, kind)
    config |= {"vocab_size": tower.vocab, "max_position_embeddings": tower.max_length}
    if preprocessing is not None and preprocessing.special_ids:
        config |= dict(preprocessing.special_ids)
    elif preprocessing is not None and preprocessing.tokenizer is not None:
        ids = preprocessing.tokenizer.encode([""])[0].ids
        if len(ids):  # the last one ends every text, and CLIP's vector is taken there
            config |= {"bos_token_id": int(ids[0]), "eos_token_id": int(ids[-1])}
        config["pad_token_id"] = preprocessing.tokenizer.pad_id
    return config


def check_kind(model: DualEncoder, kind: str, *, pool: str, causal: bool, has_bias: bool) -> None:
    """Raises unless a model has the parts of a kind that Hugging Face knows."""
    query, doc = model.query, model.doc
    fits = (
        isinstance(query, VisionTransformer)
        and isinstance(doc, TextTransformer)
        and (query.pool, query.input_norm, query.patch_bias) == (pool, not has_bias, has_bias)
        and (doc.pool, doc.causal, bool(doc.outputs)) == ("last", causal, has_bias)
        and (model.start_bias is not None, bool(model.projection)) == (has_bias, not has_bias)
    )
    if not fits:
        raise ValueError(f"the model is not of {kind}'s kind: {model}.")


def as_scalars(tensors: Mapping[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    """Tensors of one number as scalars."""
    return {n: np.reshape(v, ()) if n in names else v for n, v in tensors.items()}
