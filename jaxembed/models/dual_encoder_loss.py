"""The contrastive LossFn of a `DualEncoder`, over a whole batch or with towers in micro-batches."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxembed.losses import (
    clip_loss,
    encode_in_micro_batches,
    info_nce,
    matryoshka,
    sharded,
    sigmoid_contrastive,
)
from jaxembed.models.dual_encoder import DualEncoder, side_inputs
from jaxembed.nn import Views, random_views, scale_bytes

Kind = Literal["clip", "info-nce", "sigmoid"]
LOSSES = {"clip": clip_loss, "info-nce": info_nce, "sigmoid": sigmoid_contrastive}
SHARDED = {
    "clip": sharded.clip_loss,
    "info-nce": sharded.info_nce,
    "sigmoid": sharded.sigmoid_contrastive,
}


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """How pairs enter the loss of a dual encoder.

    Attributes:
        kind: "clip" in both directions, "info-nce" from queries to documents, or "sigmoid" pair by
            pair, which wants a model with a bias.
        chunk_size: Rows and columns of a tile of the logits; None computes all at once.
        micro_batch: Rows that the towers see at once, see `encode_in_micro_batches`; None for all.
        dims: Prefixes of the vectors that must do by themselves, see `matryoshka`; empty for none.
        dtype: What the towers are computed in; parameters, norms and logits are float32.
        views: How images are varied from epoch to epoch.
    """

    kind: Kind = "clip"
    chunk_size: int | None = None
    micro_batch: int | None = None
    dims: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    views: Views = Views()

    def __post_init__(self) -> None:
        for name in ("chunk_size", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more, or none.")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(get_args(Kind))}.")


def make_contrastive_loss(
    model: DualEncoder, config: Contrastive = Contrastive(), *, mesh: Mesh | None = None
):
    """Makes the loss of a dual encoder.

    Args:
        model: The model.
        config: Which loss, and how it is computed.
        mesh: Computes the loss as a ring over the axis "data"; None leaves it to XLA, which keeps
            all logits of a row on its device.

    Returns:
        A LossFn `(params, batch, key) -> (loss, metrics)`. Batches have for each side, `query` and
        `doc`, the arrays `query_pixels`, or `query_ids` and `query_lengths`; and may have `ids` and
        `mask`, see `info_nce`. Metrics: loss, scale, and of a sigmoid loss bias.
    """
    if config.kind == "sigmoid" and model.start_bias is None:
        raise ValueError("a sigmoid loss needs a bias: give the model start_bias=-10, for example.")

    def encode(params: PyTree, sides: Any, key: Key[Array, ""]) -> tuple[Array, Array]:
        query_key, doc_key, view_key = jax.random.split(key, 3)
        towers = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
        queries, docs = (
            model.apply(
                {"params": towers},
                *_prepare(inputs, jax.random.fold_in(view_key, place), config),
                deterministic=False,
                rngs={"dropout": dropout_key},
                method=method,
            )
            for place, (inputs, dropout_key, method) in enumerate(
                zip(sides, (query_key, doc_key), ("encode_query", "encode_doc"), strict=True)
            )
        )
        return queries, docs

    def loss_fn(
        params: PyTree, batch: Mapping[str, Any], key: Key[Array, ""]
    ) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        sides = side_inputs(batch, "query"), side_inputs(batch, "doc")
        if config.micro_batch is None:
            queries, docs = encode(params, sides, key)
        else:
            queries, docs = encode_in_micro_batches(
                encode, params, sides, key, micro_batch=config.micro_batch
            )
        scale, bias = model.apply({"params": params}, method="scale_and_bias")
        options = {"mask": batch.get("mask"), "ids": batch.get("ids")}
        if config.kind == "sigmoid":
            options |= {"scale": scale, "bias": bias}
        else:
            options["temperature"] = 1.0 / scale
        losses = _choose(config, mesh)(queries, docs, **options)
        mask = batch.get("mask")
        count = jnp.asarray(len(losses) if mask is None else jnp.sum(mask), jnp.float32)
        total = jnp.sum(losses)
        one = jnp.ones(())
        metrics = {"loss": (total, count), "scale": (scale, one)}
        if config.kind == "sigmoid":
            metrics["bias"] = (bias, one)
        return total / jnp.maximum(count, 1.0), metrics

    return loss_fn


def _choose(config: Contrastive, mesh: Mesh | None):
    """The loss over vectors that a config names."""
    if mesh is None:
        loss = functools.partial(LOSSES[config.kind], chunk_size=config.chunk_size)
    else:
        size = {} if config.chunk_size is None else {"chunk_size": config.chunk_size}
        loss = functools.partial(SHARDED[config.kind], mesh=mesh, **size)
    return matryoshka(loss, config.dims) if config.dims else loss


def _prepare(inputs: tuple[Array, ...], key: Array, config: Contrastive) -> tuple[Array, ...]:
    """A side's arrays with images varied, and in the dtype of the towers."""
    if inputs[0].ndim != 4:
        return inputs
    return (random_views(scale_bytes(inputs[0]), key, config.views).astype(config.dtype),)
