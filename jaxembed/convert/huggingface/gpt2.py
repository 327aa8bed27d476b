"""GPT-2 of Hugging Face as `Gpt`."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxembed.convert.huggingface.bert import save_tokenizer
from jaxembed.convert.huggingface.files import (
    Entry,
    PathLike,
    check_choices,
    check_used,
    norm,
    our_activation,
    read_folder,
    their_activation,
    to_params,
    to_tensors,
    write_folder,
)
from jaxembed.data.tokenizer import TextTokenizer
from jaxembed.models.gpt import Gpt

_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_PREFIX = "transformer."
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # the causal mask
_PARTS = ("query", "key", "value")


def load_gpt2(folder: PathLike) -> tuple[Gpt, dict[str, Any]]:
    """Reads a model of type gpt2; heads of other tasks than the next word are left out.

    Args:
        folder: Holds `config.json` and the weights as safetensors.

    Returns:
        The model and its parameters, float32 on the host.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the architecture is another one or has parts without
            counterpart here, or weights and configuration do not belong together; the message
            names what.
    """
    config, tensors = read_folder(folder)
    if config.get("model_type") != "gpt2":
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}: load_gpt2 reads gpt2."
        )
    check_choices(config, _ONLY)
    tensors = {
        name.removeprefix(_PREFIX): value
        for name, value in tensors.items()
        if not name.endswith(_BUFFERS)
    }
    try:
        model = _make(config)
    except KeyError as error:
        raise ValueError(
            f"the configuration of {folder} says no {error}: it is not whole."
        ) from error
    entries = list(_entries(model))
    for prefix in ("wte.", "wpe.", "h.", "ln_f."):
        check_used(tensors, entries, folder, prefix=prefix)
    params = to_params(entries, tensors, folder)
    table = tensors.get("lm_head.weight")
    if table is not None and not np.array_equal(table, params["words"]["embedding"]):
        raise ValueError(
            f"lm_head.weight of {folder} is not the table of token vectors: an output table of its "
            "own cannot be converted."
        )
    for index in range(model.layers):
        attention = params[f"stack_{index}"]["attention"]
        whole = attention.pop("whole")
        for kind in ("kernel", "bias"):
            for name, part in zip(_PARTS, np.split(whole[kind], 3, axis=-1), strict=True):
                attention.setdefault(name, {})[kind] = part
    return model, params


def save_gpt2(
    folder: PathLike,
    model: Gpt,
    params: Mapping[str, Any],
    *,
    tokenizer: TextTokenizer | None = None,
) -> None:
    """Writes a folder that Hugging Face opens as a GPT-2 with its head for the next word.

    Args:
        folder: Made if need be; files of the same names are replaced.
        model: The model.
        params: Its parameters.
        tokenizer: Written beside it, if given.

    Raises:
        ValueError: If the parameters are of another model.
        OSError: If the disk is full or the folder is not writable.
    """
    joined = dict(params)
    for index in range(model.layers):
        layer = dict(params[f"stack_{index}"])
        attention = dict(layer["attention"])
        parts = [attention.pop(name) for name in _PARTS]
        attention["whole"] = {
            kind: np.concatenate([np.asarray(part[kind]) for part in parts], axis=-1)
            for kind in ("kernel", "bias")
        }
        joined[f"stack_{index}"] = layer | {"attention": attention}
    tensors = to_tensors(_entries(model), joined)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_embd": model.width,
        "n_head": model.heads,
        "n_inner": model.hidden,
        "n_layer": model.layers,
        "n_positions": model.max_length,
        "activation_function": their_activation(model.activation),
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.attention_dropout,
        "layer_norm_epsilon": model.epsilon,
        "torch_dtype": "float32",
    }
    write_folder(folder, config, {_PREFIX + name: value for name, value in tensors.items()})
    if tokenizer is not None:
        save_tokenizer(folder, tokenizer, model.max_length)


def _make(config: Mapping[str, Any]) -> Gpt:
    return Gpt(
        vocab_size=config["vocab_size"],
        width=config["n_embd"],
        heads=config["n_head"],
        hidden=config.get("n_inner") or 4 * config["n_embd"],
        layers=config["n_layer"],
        max_length=config["n_positions"],
        activation=our_activation(config, "activation_function"),
        dropout=float(config.get("resid_pdrop", 0.1)),
        attention_dropout=float(config.get("attn_pdrop", 0.1)),
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
    )


def _entries(model: Gpt) -> Iterable[Entry]:
    """Which tensor is which parameter; query, key and value are one here as there."""
    width, hidden = model.width, model.hidden
    yield Entry("words/embedding", "wte.weight", (model.vocab_size, width))
    yield Entry("positions/embedding", "wpe.weight", (model.max_length, width))
    yield from norm("final_norm", "ln_f", width)
    sizes = {
        "attention/whole": ("attn.c_attn", width, 3 * width),
        "attention/out": ("attn.c_proj", width, width),
        "widen": ("mlp.c_fc", width, hidden),
        "narrow": ("mlp.c_proj", hidden, width),
    }
    for index in range(model.layers):
        for ours, (theirs, inputs, outputs) in sizes.items():
            path, name = f"stack_{index}/{ours}", f"h.{index}.{theirs}"
            # Their "Conv1D" holds its kernel as ours does.
            yield Entry(f"{path}/kernel", f"{name}.weight", (inputs, outputs))
            yield Entry(f"{path}/bias", f"{name}.bias", (outputs,))
        yield from norm(f"stack_{index}/attention_norm", f"h.{index}.ln_1", width)
        yield from norm(f"stack_{index}/feed_norm", f"h.{index}.ln_2", width)
