"""Dual encoders that begin with a pretrained encoder of texts."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxembed.encoder import Encoder, load_encoder
from jaxembed.models import Bert, SentenceBert
from jaxembed.train import TrainState


def make_tower(path: str, *, max_length: int | None = None) -> SentenceBert:
    """Makes the tower that is what a pretrained encoder is.

    Args:
        path: Of the encoder, see `load_encoder`.
        max_length: Longest text in tokens; None for the encoder's.

    Returns:
        The tower.

    Raises:
        FileNotFoundError: If there is no encoder.
        ValueError: If it is none that a tower can be.
    """
    encoder = _open(path)
    (pool,) = encoder.pooling
    return SentenceBert(_bare(encoder.model), pool, max_length or encoder.max_length)


def load_start(recipe: Any) -> Encoder:
    """Opens the encoder that a recipe begins with.

    Args:
        recipe: A recipe with a `start`.

    Returns:
        The encoder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is none that a tower can be, or not what the towers are.
    """
    encoder = _open(recipe.start)
    wanted = make_tower(recipe.start)
    towers = [one for one in (recipe.model.query, recipe.model.doc) if one is not None]
    begun = [tower for tower in towers if isinstance(tower, SentenceBert)]
    if not begun:
        raise ValueError(f"start is {recipe.start}, but no tower of the model is a SentenceBert.")
    for tower in begun:
        if (_bare(tower.bert), tower.pool) != (wanted.bert, wanted.pool):
            raise ValueError(f"start: {recipe.start} is {wanted}, but the tower {tower}.")
    return encoder


def begin_with(encoder: Encoder, state: TrainState) -> TrainState:
    """Puts an encoder's parameters into every tower that is a `SentenceBert`.

    Args:
        encoder: Of `load_start`.
        state: The state of step 0.

    Returns:
        The same with other parameters, each where it was.
    """

    def place(new: Any, old: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(new, old.dtype), old.sharding)

    params = dict(state.params)
    for name, part in params.items():
        if isinstance(part, dict) and "bert" in part:
            params[name] = part | {"bert": jax.tree.map(place, encoder.params, part["bert"])}
    return dataclasses.replace(state, params=params)


def _open(path: str) -> Encoder:
    encoder = load_encoder(path)
    if not isinstance(encoder, Encoder) or not isinstance(encoder.model, Bert):
        raise ValueError(f"{path} is no BERT: a tower has no layers to take from it.")
    if encoder.lowercase or encoder.prompt or len(encoder.pooling) != 1:
        raise ValueError(
            f"{path} has lowercase {encoder.lowercase}, the prompt {encoder.prompt!r} and poolings "
            f"{encoder.pooling}: a tower takes texts as they are, and has one pooling."
        )
    return encoder


def _bare(bert: Bert) -> Bert:
    """What decides a tower's parameters: the model without heads and pooler, of any dtype."""
    return bert.clone(parent=None, pooler=False, word_head=False, next_head=False, dtype=None)
