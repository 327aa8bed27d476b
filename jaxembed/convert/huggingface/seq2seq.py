"""Transformer encoder-decoders of Hugging Face (BART, Marian) as `TransformerSeq2Seq`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxembed.convert.huggingface.files import PathLike, our_activation, read_folder
from jaxembed.models.seq2seq import TransformerSeq2Seq

_BART_OFFSET = 2  # the rows before position 0 in BART's tables


def load_seq2seq(folder: PathLike) -> tuple[TransformerSeq2Seq, dict[str, Any]]:
    """Reads a folder with a model of type "bart" or "marian"; see `from_huggingface`."""
    return from_huggingface(*read_folder(folder))


def from_huggingface(
    config: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[TransformerSeq2Seq, dict[str, Any]]:
    """Converts a model of type "bart" or "marian".

    Args:
        config: Its configuration, as in `config.json`.
        state: Its weights by name, as in `model.safetensors`.

    Returns:
        The model and its parameters. Positions, token vectors and output table are as in the
        original; search starts from `config["decoder_start_token_id"]`.

    Raises:
        ValueError: If the model is of another type, or has parts that have no counterpart here.
        KeyError: If a weight is missing.
    """
    kind = config["model_type"]
    if kind not in ("bart", "marian"):
        raise ValueError(f"model_type is {kind!r}: bart and marian can be converted.")
    activation = our_activation(config, "activation_function")
    sides = ("encoder", "decoder")
    for name in ("attention_heads", "ffn_dim"):
        sizes = {config[f"{side}_{name}"] for side in sides}
        if len(sizes) > 1:
            raise ValueError(f"encoder and decoder differ in {name} ({sizes}): they must not.")
    vocab = state["model.shared.weight"].shape[0]
    model = TransformerSeq2Seq(
        source_vocab=vocab,
        target_vocab=vocab,
        width=config["d_model"],
        heads=config["encoder_attention_heads"],
        hidden=config["encoder_ffn_dim"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        activation=activation,
        norm="post",
        positions="learned" if kind == "bart" else "sinusoidal",
        max_length=config["max_position_embeddings"],
        dropout=float(config.get("dropout", 0.0)),
        attention_dropout=float(config.get("attention_dropout", 0.0)),
        hidden_dropout=float(config.get("activation_dropout", 0.0)),
        shared=True,
        tied=True,
        scaled=bool(config.get("scale_embedding", False)),
        embedding_norm=kind == "bart",
    )
    params: dict[str, Any] = {
        "target_embedding": {"embedding": _weight(state, "model.shared")},
        "output_bias": np.asarray(state.get("final_logits_bias", np.zeros(vocab))).reshape(-1),
    }
    for side, ours in zip(sides, ("source", "target"), strict=True):
        if kind == "bart":
            table = _weight(state, f"model.{side}.embed_positions")
            params[f"{ours}_positions"] = table[_BART_OFFSET:]
            params[f"{ours}_norm"] = _norm(state, f"model.{side}.layernorm_embedding")
        for index in range(config[f"{side}_layers"]):
            params[f"{side}_{index}"] = _layer(state, f"model.{side}.layers.{index}", side)
    return model, _as_float32(params)


def _layer(state, prefix: str, side: str) -> dict[str, Any]:
    layer = {
        "attention": _attention(state, f"{prefix}.self_attn"),
        "attention_norm": _norm(state, f"{prefix}.self_attn_layer_norm"),
        "widen": _dense(state, f"{prefix}.fc1"),
        "narrow": _dense(state, f"{prefix}.fc2"),
        "feed_norm": _norm(state, f"{prefix}.final_layer_norm"),
    }
    if side == "decoder":
        layer["cross"] = _attention(state, f"{prefix}.encoder_attn")
        layer["cross_norm"] = _norm(state, f"{prefix}.encoder_attn_layer_norm")
    return layer


def _attention(state, prefix: str) -> dict[str, Any]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {ours: _dense(state, f"{prefix}.{theirs}") for ours, theirs in names.items()}


def _dense(state, prefix: str) -> dict[str, np.ndarray]:
    return {"kernel": _weight(state, prefix).T, "bias": np.asarray(state[f"{prefix}.bias"])}


def _norm(state, prefix: str) -> dict[str, np.ndarray]:
    return {"scale": _weight(state, prefix), "bias": np.asarray(state[f"{prefix}.bias"])}


def _weight(state, prefix: str) -> np.ndarray:
    return np.asarray(state[f"{prefix}.weight"])


def _as_float32(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _as_float32(value) if isinstance(value, dict) else value.astype(np.float32)
        for name, value in tree.items()
    }
