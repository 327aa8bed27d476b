"""Dual encoders that begin with a pretrained encoder of texts."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxembed.convert.huggingface import load_bert
from jaxembed.convert.sentence_transformers import MODULES, read_modules
from jaxembed.data import TextTokenizer, load_tokenizer
from jaxembed.models import SentenceBert
from jaxembed.models.bert import without_heads
from jaxembed.train import TrainState

# What a tower may have otherwise than the folder; and what linen writes into every module, and the
# `Bert` whose fields are compared one by one.
_FREE = ("max_length", "dropout", "attention_dropout", "dtype", "parent", "name", "bert")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What a dual encoder begins with.

    Attributes:
        tower: The tower that takes it.
        params: Of the tower's `bert`.
        tokenizer: What its token ids come from.
    """

    tower: SentenceBert
    params: PyTree
    tokenizer: TextTokenizer

    def fingerprint(self) -> str:
        """A hash of all parameters and the tokenizer."""
        return hash_params(self.params, self.tokenizer.to_json().encode())


def hash_params(params: PyTree, start: bytes = b"") -> str:
    """A SHA-256 of all parameters in order, in hexadecimal.

    Args:
        params: Arrays.
        start: What is hashed before them.
    """
    digest = hashlib.sha256(start)
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def load_pretrained(path: str, *, max_length: int | None = None) -> Pretrained:
    """Reads an encoder of texts.

    Args:
        path: A folder of Hugging Face or of sentence-transformers with a BERT, DistilBERT or
            RoBERTa.
        max_length: Longest text in tokens; None for what the folder says.

    Returns:
        The encoder, as a tower.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the folder does something that a tower does not, or texts
            cannot be of that length.
    """
    folder, pool, said = Path(path), "mean", None
    if (folder / MODULES).is_file():
        modules = read_modules(folder)
        if modules.is_static or modules.lowercase or modules.prompt or len(modules.poolings) != 1:
            raise ValueError(
                f"{path} cannot be started from: a tower is a transformer with one pooling, whose "
                "texts are neither prompted nor lower-cased outside the tokenizer."
            )
        folder, (pool,), said = modules.folder, modules.poolings, modules.max_length
    model, params = load_bert(folder)
    longest = model.max_length
    length = min(said or longest, longest) if max_length is None else max_length
    if not 1 <= length <= longest:
        raise ValueError(f"max_length is {length}: {path} reads 1 to {longest} tokens.")
    # No tower has a use for heads and pooler.
    bare = model.clone(pooler=False, word_head=False, next_head=False, dtype=None)
    tower = SentenceBert(bare, pool, length)
    return Pretrained(tower, without_heads(params), load_tokenizer(folder))


def load_start(recipe: Any) -> Pretrained:
    """Opens the encoder that a recipe begins with.

    Args:
        recipe: A recipe with a `start`.

    Returns:
        The encoder.

    Raises:
        FileNotFoundError: As `load_pretrained`.
        ValueError: As `load_pretrained`, or if no tower is what the folder holds.
    """
    found = load_pretrained(recipe.start)
    towers = {"query": recipe.model.query, "doc": recipe.model.doc}
    begun = {side: tower for side, tower in towers.items() if isinstance(tower, SentenceBert)}
    if not begun:
        raise ValueError(f"start is {recipe.start}, but no tower of the model is a SentenceBert.")
    for side, tower in begun.items():
        parts = {f"{side}.": (tower, found.tower), f"{side}.bert.": (tower.bert, found.tower.bert)}
        pairs = [
            (f"{where}{field.name}", getattr(here, field.name), getattr(there, field.name))
            for where, (here, there) in parts.items()
            for field in dataclasses.fields(here)
            if field.name not in _FREE
        ]
        wrong = [f"{name}: {here!r} and {there!r}" for name, here, there in pairs if here != there]
        longest = tower.bert.max_length
        if not 1 <= tower.max_length <= longest:
            wrong.append(f"{side}.max_length: {tower.max_length} and 1 to {longest}")
        if wrong:
            raise ValueError(
                f"the model is not what {recipe.start} holds (here, there): {'; '.join(wrong)}. "
                "Take the tower of load_pretrained."
            )
    return found


def begin_with(found: Pretrained, state: TrainState) -> TrainState:
    """Puts an encoder's parameters into every tower that is a `SentenceBert`.

    Args:
        found: Of `load_start`.
        state: The state of step 0.

    Returns:
        The same with other parameters, each where it was.
    """

    def place(new: Any, old: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(new, old.dtype), old.sharding)

    params = dict(state.params)
    for name, part in params.items():
        if isinstance(part, dict) and "bert" in part:
            params[name] = part | {"bert": jax.tree.map(place, found.params, part["bert"])}
    return dataclasses.replace(state, params=params)
