"""SigLIP of Hugging Face as a `DualEncoder`: images are queries, texts documents."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxembed.convert.huggingface.clip import (
    as_scalars,
    check_kind,
    text_config,
    tower_fields,
    vision_config,
)
from jaxembed.convert.huggingface.files import (
    Entry,
    PathLike,
    dense,
    norm,
    read_folder,
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
_SIZES = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_TEXT = _SIZES | {"vocab_size": 32000, "max_position_embeddings": 64}
_VISION = _SIZES | {"patch_size": 16}
_HEAD = "vision_model.head.attention"
_HALVES = (0.5, 0.5, 0.5)


def load_siglip(folder: PathLike) -> tuple[DualEncoder, dict[str, Any], Preprocessing]:
    """Reads a folder of SigLIP; arguments, returns and errors as of `load_clip`.

    Texts are filled up to the model's full length, and the last place is what stands for them: so
    was it trained.
    """
    config, tensors = read_folder(folder)
    if config.get("model_type") != "siglip":
        kind = config.get("model_type")
        raise ValueError(f"{folder} holds a model of type {kind!r}, not siglip.")
    text = _TEXT | config.get("text_config", {})
    vision = _VISION | config.get("vision_config", {})
    if not vision.get("vision_use_head", True):
        raise ValueError(f"{folder} has no attention head (vision_use_head): it gives no vector.")
    model = DualEncoder(
        VisionTransformer(
            image=square_side(vision),
            patch=vision["patch_size"],
            pool="attention",
            **tower_fields(vision),
        ),
        TextTransformer(
            vocab=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            pool="last",
            outputs=text.get("projection_size") or text["hidden_size"],
            **tower_fields(text),
        ),
        start_scale=10.0,
        start_bias=-10.0,
    )
    tensors = as_scalars(_split_head(tensors), "logit_scale", "logit_bias")
    params = to_params(_entries(model), flatten_patches(tensors), folder)
    image = ImageProcessing(size=model.query.image[:2], crop=(), mean=_HALVES, std=_HALVES)
    preprocessing = read_preprocessing(
        folder, text, image, max_length=model.doc.max_length, fills_up=True
    )
    return model, params, preprocessing


def save_siglip(
    folder: PathLike,
    model: DualEncoder,
    params: Mapping[str, Any],
    preprocessing: Preprocessing | None = None,
) -> None:
    """Writes a folder that Hugging Face opens as a SiglipModel; as `save_clip`."""
    check_kind(model, "SigLIP", pool="attention", causal=False, has_bias=True)
    tensors = _join_head(to_tensors(_entries(model), params))
    for name in ("logit_scale", "logit_bias"):
        tensors[name] = tensors[name].reshape(1)
    text = text_config(model.doc, "siglip_text_model", preprocessing)
    config = {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "text_config": text | {"projection_size": model.doc.outputs},
        "vision_config": vision_config(model.query, "siglip_vision_model"),
        "dtype": "float32",
    }
    write_folder(folder, config, unflatten_patches(tensors, model.query))
    if preprocessing is not None:
        write_preprocessing(folder, preprocessing, "Siglip")


def _entries(model: DualEncoder) -> Iterator[Entry]:
    yield from vision_entries(model.query)
    tower, ours, theirs = model.query, "query/head", "vision_model.head"
    width = tower.width
    yield Entry(f"{ours}/query", f"{theirs}.probe", (1, 1, width))
    for part in ("query", "key", "value"):
        yield from dense(f"{ours}/attention/{part}", f"{_HEAD}.{part}", width, width)
    yield from dense(f"{ours}/attention/out", f"{_HEAD}.out_proj", width, width)
    yield from norm(f"{ours}/norm", f"{theirs}.layernorm", width)
    yield from dense(f"{ours}/widen", f"{theirs}.mlp.fc1", width, tower.hidden)
    yield from dense(f"{ours}/narrow", f"{theirs}.mlp.fc2", tower.hidden, width)
    yield from text_entries(model.doc)
    yield from dense("doc/output", "text_model.head", model.doc.width, model.doc.outputs)
    yield Entry("log_scale", "logit_scale", ())
    yield Entry("bias", "logit_bias", ())


def _split_head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The head's one matrix of torch as those of query, key and value."""
    changed = dict(tensors)
    for theirs, ours in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        whole = changed.pop(f"{_HEAD}.{theirs}", None)
        if whole is not None and len(whole) % 3 == 0:
            for part, value in zip(("query", "key", "value"), np.split(whole, 3), strict=True):
                changed[f"{_HEAD}.{part}.{ours}"] = value
    return changed


def _join_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `_split_head`."""
    for theirs, ours in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        parts = [tensors.pop(f"{_HEAD}.{part}.{ours}") for part in ("query", "key", "value")]
        tensors[f"{_HEAD}.{theirs}"] = np.concatenate(parts)
    return tensors
