"""BERT, DistilBERT, RoBERTa and their kin (MiniLM, XLM-RoBERTa) of Hugging Face as `Bert`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxembed.atomic import write_atomically
from jaxembed.convert.huggingface.files import (
    Entry,
    PathLike,
    check_choices,
    check_used,
    dense,
    norm,
    our_activation,
    read_folder,
    their_activation,
    to_params,
    to_tensors,
    write_folder,
    write_json,
)
from jaxembed.data.tokenizer import TextTokenizer
from jaxembed.models.bert import Bert

# What weights are called before the dot in a model with heads.
_PREFIXES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
}
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_BERT_LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "feed_norm": "output.LayerNorm",
}
_DISTIL_LAYER = {
    "attention/query": "attention.q_lin",
    "attention/key": "attention.k_lin",
    "attention/value": "attention.v_lin",
    "attention/out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "widen": "ffn.lin1",
    "narrow": "ffn.lin2",
    "feed_norm": "output_layer_norm",
}
# Dense layer, normalisation and bias of the head for masked words.
_WORD_HEADS = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
# Copies of what is stored elsewhere.
_OUTPUT_TABLES = ("cls.predictions.decoder", "lm_head.decoder", "vocab_projector")
_ROLES = {
    "pad": ("[PAD]", "<pad>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "eos": ("</s>", "<|endoftext|>"),
}
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def load_bert(folder: PathLike) -> tuple[Bert, dict[str, Any]]:
    """Reads a model of type bert, distilbert, roberta, xlm-roberta or camembert.

    The heads for masked words and for the next sentence are taken where the file has them; heads
    of other tasks are left out.

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
    kind = config.get("model_type")
    if kind not in _PREFIXES:
        raise ValueError(
            f"{folder} holds a model of type {kind!r}: {', '.join(_PREFIXES)} can be read by "
            "load_bert."
        )
    family = _PREFIXES[kind]
    check_choices(config, _ONLY)
    tensors = _plain_names(tensors, family)
    heads = {
        "pooler": "pooler.dense.weight" in tensors,
        "word_head": _WORD_HEADS[family][0] + ".weight" in tensors,
        "next_head": "cls.seq_relationship.weight" in tensors,
    }
    try:
        model = _make_distil(config, heads) if family == "distilbert" else _make(config, heads)
    except KeyError as error:
        raise ValueError(
            f"the configuration of {folder} says no {error}: it is not whole."
        ) from error
    entries = list(_entries(model, family))
    for prefix in ("embeddings.", "encoder.", "transformer.", "pooler."):
        check_used(tensors, entries, folder, prefix=prefix)
    params = to_params(entries, tensors, folder)
    for name in _OUTPUT_TABLES:
        table = tensors.get(f"{name}.weight")
        if table is not None and not np.array_equal(table, params["words"]["embedding"]):
            raise ValueError(
                f"{name}.weight of {folder} is not the table of token vectors: an output table of "
                "its own cannot be converted."
            )
    return model, params


def save_bert(
    folder: PathLike,
    model: Bert,
    params: Mapping[str, Any],
    *,
    tokenizer: TextTokenizer | None = None,
) -> None:
    """Writes a folder that Hugging Face opens.

    A model without segments becomes a DistilBERT, one whose positions start behind 0 a RoBERTa,
    any other a BERT.

    Args:
        folder: Made if need be; files of the same names are replaced.
        model: The model.
        params: Its parameters.
        tokenizer: Written beside it, if given.

    Raises:
        ValueError: If the model has parts that its family does not have there, or the parameters
            are of another model.
        OSError: If the disk is full or the folder is not writable.
    """
    family = "bert"
    if not model.segments:
        family = "distilbert"
    elif model.position_start:
        family = "roberta"
    misfit = {
        "distilbert": model.pooler or model.position_start,
        "roberta": model.next_head,
    }
    if misfit.get(family):
        raise ValueError(
            f"a {family} there has no such parts: segments={model.segments}, position_start="
            f"{model.position_start}, pooler={model.pooler}, next_head={model.next_head}."
        )
    entries = list(_entries(model, family))
    has_heads = model.word_head or model.next_head
    tensors = {
        name if _is_head(name) or not has_heads else f"{family}.{name}": value
        for name, value in to_tensors(entries, params).items()
    }
    write_folder(folder, _config(model, family, tokenizer), tensors)
    if tokenizer is not None:
        save_tokenizer(folder, tokenizer, model.max_length)


def save_tokenizer(folder: PathLike, tokenizer: TextTokenizer, max_length: int) -> None:
    """Writes a tokenizer that Hugging Face opens.

    Args:
        folder: Made if need be.
        tokenizer: The tokenizer.
        max_length: Longest sequence that the model takes.
    """
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    specials = tokenizer.pieces(tokenizer.special_ids)
    for role, names in _ROLES.items():
        if found := next((name for name in names if name in specials), None):
            content[f"{role}_token"] = found
    with write_atomically(Path(folder) / "tokenizer.json") as file:
        file.write(tokenizer.to_json().encode())
    write_json(Path(folder) / "tokenizer_config.json", content)


def _plain_names(tensors: Mapping[str, np.ndarray], family: str) -> dict[str, np.ndarray]:
    """Names as in a model without heads, of today."""
    plain = {}
    for name, value in tensors.items():
        name = name.removeprefix(f"{family}.")
        # Files of before 2019.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name not in _BUFFERS:
            plain[name] = value
    return plain


def _is_head(name: str) -> bool:
    return name.startswith(("cls.", "lm_head.", "vocab_"))


def _make(config: Mapping[str, Any], heads: Mapping[str, bool]) -> Bert:
    start = 0 if config["model_type"] == "bert" else config.get("pad_token_id", 1) + 1
    return Bert(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        max_length=config["max_position_embeddings"] - start,
        segments=config["type_vocab_size"],
        position_start=start,
        activation=our_activation(config, "hidden_act"),
        dropout=float(config.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(config.get("attention_probs_dropout_prob", 0.1)),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        **heads,
    )


def _make_distil(config: Mapping[str, Any], heads: Mapping[str, bool]) -> Bert:
    return Bert(
        vocab_size=config["vocab_size"],
        width=config["dim"],
        heads=config["n_heads"],
        hidden=config["hidden_dim"],
        layers=config["n_layers"],
        max_length=config["max_position_embeddings"],
        segments=0,
        activation=our_activation(config, "activation"),
        dropout=float(config.get("dropout", 0.1)),
        attention_dropout=float(config.get("attention_dropout", 0.1)),
        **heads,
    )


def _config(model: Bert, family: str, tokenizer: TextTokenizer | None) -> dict[str, Any]:
    """The configuration of a model there."""
    names = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
    head = "ForMaskedLM" if model.word_head else "Model"
    architecture = names[family] + ("ForPreTraining" if model.next_head else head)
    pad = tokenizer.pad_id if tokenizer is not None and family != "roberta" else 0
    shared = {
        "architectures": [architecture],
        "model_type": family,
        "vocab_size": model.vocab_size,
        "pad_token_id": model.position_start - 1 if family == "roberta" else pad,
        "torch_dtype": "float32",
    }
    activation = their_activation(model.activation)
    if family == "distilbert":
        return shared | {
            "dim": model.width,
            "n_heads": model.heads,
            "hidden_dim": model.hidden,
            "n_layers": model.layers,
            "max_position_embeddings": model.max_length,
            "activation": activation,
            "dropout": model.dropout,
            "attention_dropout": model.attention_dropout,
            "sinusoidal_pos_embds": False,
        }
    return shared | {
        "hidden_size": model.width,
        "num_attention_heads": model.heads,
        "intermediate_size": model.hidden,
        "num_hidden_layers": model.layers,
        "max_position_embeddings": model.max_length + model.position_start,
        "type_vocab_size": model.segments,
        "hidden_act": activation,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.epsilon,
        "position_embedding_type": "absolute",
    }


def _entries(model: Bert, family: str) -> Iterable[Entry]:
    """Which tensor is which parameter, names without prefix."""
    width, hidden = model.width, model.hidden
    tables = {
        "words": ("word", model.vocab_size),
        "positions": ("position", model.max_length + model.position_start),
    }
    if model.segments:
        tables["segment_kinds"] = ("token_type", model.segments)
    for ours, (theirs, rows) in tables.items():
        yield Entry(f"{ours}/embedding", f"embeddings.{theirs}_embeddings.weight", (rows, width))
    yield from norm("embedding_norm", "embeddings.LayerNorm", width)
    is_distil = family == "distilbert"
    sizes = {"widen": (width, hidden), "narrow": (hidden, width)}
    for index in range(model.layers):
        stack = "transformer" if is_distil else "encoder"
        for ours, theirs in (_DISTIL_LAYER if is_distil else _BERT_LAYER).items():
            path, name = f"stack_{index}/{ours}", f"{stack}.layer.{index}.{theirs}"
            if ours.endswith("norm"):
                yield from norm(path, name, width)
            else:
                yield from dense(path, name, *sizes.get(ours, (width, width)))
    if model.pooler:
        yield from dense("pooling", "pooler.dense", width, width)
    if model.word_head:
        transform, normalisation, bias = _WORD_HEADS[family]
        yield from dense("word_transform", transform, width, width)
        yield from norm("word_norm", normalisation, width)
        yield Entry("word_bias", bias, (model.vocab_size,))
    if model.next_head:
        yield from dense("next_sentence", "cls.seq_relationship", width, 2)
