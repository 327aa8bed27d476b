"""Folders of sentence-transformers: their modules, read and written; word vectors as one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from jaxembed.atomic import write_atomically
from jaxembed.convert.huggingface.bert import save_bert
from jaxembed.convert.huggingface.files import (
    WEIGHTS,
    PathLike,
    read_json,
    read_tensors,
    write_json,
)
from jaxembed.data.tokenizer import TextTokenizer, load_tokenizer
from jaxembed.models.bert import Bert
from jaxembed.vectors import KeyedVectors

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
UNKNOWN = "[UNK]"
_KIND = "sentence_transformers.models."
# Theirs to a pooling of `jaxembed.nn.pooling`, in the order in which theirs are joined.
_POOLINGS = {
    "cls": "class",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclasses.dataclass(frozen=True)
class SentenceModules:
    """What a module folder says.

    Attributes:
        folder: Of the transformer, or of the static embeddings.
        is_static: Whether they are static embeddings.
        poolings: Over tokens; several are joined.
        normalize: Whether vectors are brought to unit length.
        max_length: Longest text in tokens, specials counted; None where it does not say.
        lowercase: Whether texts are lower-cased first.
        prompt: What is put before every text.
    """

    folder: Path
    is_static: bool
    poolings: tuple[str, ...]
    normalize: bool
    max_length: int | None
    lowercase: bool
    prompt: str


def read_modules(folder: PathLike) -> SentenceModules:
    """Reads what the modules of a folder are.

    Args:
        folder: Holds `modules.json`.

    Returns:
        What they do; weights are not read.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or a module has no counterpart here; the message names
            it.
    """
    folder = Path(folder)
    listed = read_json(folder / MODULES)
    try:
        modules = [(module["type"].split(".")[-1], folder / module["path"]) for module in listed]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / MODULES} is no list of modules ({error!r}).") from error
    kinds = [kind for kind, _ in modules]
    allowed = (["Transformer", "Pooling"], ["StaticEmbedding"])
    if kinds not in [start + end for start in allowed for end in ([], ["Normalize"])]:
        raise ValueError(
            f"{folder} is made of {', '.join(kinds)}: a Transformer and Pooling, or a "
            "StaticEmbedding, and Normalize behind them can be read."
        )
    first = modules[0][1]
    said = read_json(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    prompt = (said.get("prompts") or {}).get(said.get("default_prompt_name"), "")
    if kinds[0] == "StaticEmbedding":
        return SentenceModules(first, True, (), "Normalize" in kinds, None, False, prompt)
    found = [first / name for name in _TRANSFORMER_CONFIGS if (first / name).is_file()]
    config = read_json(found[0]) if found else {}
    return SentenceModules(
        first,
        False,
        _read_pooling(modules[1][1] / "config.json", prompt),
        "Normalize" in kinds,
        config.get("max_seq_length"),
        bool(config.get("do_lower_case", False)),
        prompt,
    )


def _read_pooling(file: Path, prompt: str) -> tuple[str, ...]:
    config = read_json(file)
    modes = config.get("pooling_mode") or [
        mode for key, mode in _OLD_KEYS.items() if config.get(key, False)
    ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    if unknown:
        raise ValueError(
            f"{file} says {unknown[0]!r}: one of {', '.join(_POOLINGS)} can be converted."
        )
    if prompt and not config.get("include_prompt", True):
        raise ValueError(f"{file} leaves the prompt out of pooling, which cannot be converted.")
    return tuple(_POOLINGS[mode] for mode in modes or ["mean"])


def save_sentence_transformer(
    folder: PathLike,
    model: Bert,
    params: Mapping[str, Any],
    tokenizer: TextTokenizer,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_length: int | None = None,
) -> None:
    """Writes a folder that sentence-transformers opens.

    Args:
        folder: Made if need be; files of the same names are replaced.
        model: The model.
        params: Its parameters.
        tokenizer: Its tokenizer.
        pooling: Over tokens: "class", "mean", "max", "last", "weighted-mean" or "mean-sqrt".
        normalize: Whether vectors are brought to unit length.
        max_length: Longest text in tokens; None for the model's.

    Raises:
        ValueError: If the pooling has no counterpart there, or the model.
        OSError: If the disk is full or the folder is not writable.
    """
    theirs = {ours: name for name, ours in _POOLINGS.items()}
    if pooling not in theirs:
        raise ValueError(f"pooling is {pooling!r}: one of {', '.join(theirs)} can be written.")
    folder = Path(folder)
    save_bert(folder, model, params, tokenizer=tokenizer)
    config = {"max_seq_length": max_length or model.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", config)
    modes = {key: mode == theirs[pooling] for key, mode in _OLD_KEYS.items()}
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.width} | modes
    )
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    _write_modules(folder, paths, normalize)


def save_static_embedding(
    folder: PathLike,
    vectors: KeyedVectors,
    *,
    lowercase: bool = False,
    normalize: bool = False,
) -> None:
    """Writes word vectors as a folder that sentence-transformers opens: the mean over words.

    Texts are split at spaces and at punctuation. A word that has no vector is there one of zeros,
    which makes the mean shorter and does not turn it.

    Args:
        folder: Made if need be; files of the same names are replaced.
        vectors: The word vectors.
        lowercase: Whether texts are lower-cased first.
        normalize: Whether sentence vectors are brought to unit length.

    Raises:
        ValueError: If a key is the name of the unknown word, `[UNK]`.
        OSError: If the disk is full or the folder is not writable.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if UNKNOWN in vectors:
        raise ValueError(f"{UNKNOWN} is a key of the vectors: rename it.")
    folder = Path(folder)
    first = folder / "0_StaticEmbedding"
    words = {key: index for index, key in enumerate([UNKNOWN, *vectors.keys])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    matrix = np.concatenate([np.zeros((1, vectors.dim), np.float32), vectors.matrix])
    with write_atomically(first / WEIGHTS) as file:
        file.write(safetensors.numpy.save({"embedding.weight": matrix}, {"format": "pt"}))
    with write_atomically(first / "tokenizer.json") as file:
        file.write(tokenizer.to_str().encode())
    _write_modules(folder, {"StaticEmbedding": first.name}, normalize)


def load_static_embedding(folder: PathLike) -> tuple[TextTokenizer, np.ndarray]:
    """Reads the tokenizer and the table of a StaticEmbedding module.

    Args:
        folder: Of the module itself, `SentenceModules.folder`.

    Returns:
        The tokenizer, and a float32 row a token.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the table has another size than the vocabulary.
    """
    tokenizer, tensors = load_tokenizer(folder), read_tensors(folder)
    if "embedding.weight" not in tensors:
        raise ValueError(f"{Path(folder) / WEIGHTS} has no tensor embedding.weight.")
    table = tensors["embedding.weight"].astype(np.float32)
    if table.ndim != 2 or len(table) < tokenizer.vocab_size:
        raise ValueError(
            f"embedding.weight of {folder} has shape {table.shape} for a vocabulary of "
            f"{tokenizer.vocab_size}: they do not belong together."
        )
    return tokenizer, table


def _write_modules(folder: Path, paths: dict[str, str], normalize: bool) -> None:
    """Last, so that a folder with this file is whole."""
    if normalize:
        paths = paths | {"Normalize": f"{len(paths)}_Normalize"}
        (folder / paths["Normalize"]).mkdir(parents=True, exist_ok=True)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": _KIND + kind}
        for index, (kind, path) in enumerate(paths.items())
    ]
    write_json(folder / MODULES, modules)
