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
    candidate_softmax,
    clip_loss,
    encode_in_micro_batches,
    info_nce,
    matryoshka,
    sharded,
    sigmoid_contrastive,
)
from jaxembed.models.dual_encoder import DualEncoder, side_inputs
from jaxembed.nn import Views, random_views, scale_bytes

Kind = Literal["clip", "info-nce", "sigmoid", "candidates"]
LOSSES = {
    "clip": clip_loss,
    "info-nce": info_nce,
    "sigmoid": sigmoid_contrastive,
    "candidates": candidate_softmax,
}
SHARDED = {
    "clip": sharded.clip_loss,
    "info-nce": sharded.info_nce,
    "sigmoid": sharded.sigmoid_contrastive,
}


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """How pairs enter the loss of a dual encoder.

    Attributes:
        kind: "clip" in both directions, "info-nce" from queries to documents, "sigmoid" pair by
            pair, which wants a model with a bias, or "candidates" from queries to all documents of
            the training data, which are encoded in every step: exact, for sets of few thousands.
        hard_negatives: How many of the documents that are known to be wrong are drawn for each
            query of a batch, where the data have such; they enter beside the others of the batch.
        chunk_size: Rows and columns of a tile of the logits; None computes all at once.
        micro_batch: Rows that the towers see at once, see `encode_in_micro_batches`; None for all.
        dims: Prefixes of the vectors that must do by themselves, see `matryoshka`; empty for none.
        dtype: What the towers are computed in; parameters, norms and logits are float32.
        views: How images are varied from epoch to epoch.
    """

    kind: Kind = "clip"
    hard_negatives: int = 0
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
        if self.hard_negatives < 0:
            raise ValueError(f"hard_negatives is {self.hard_negatives}; give 0 or more.")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(get_args(Kind))}.")


def make_contrastive_loss(
    model: DualEncoder,
    config: Contrastive = Contrastive(),
    *,
    mesh: Mesh | None = None,
    candidates: Mapping[str, Any] | None = None,
):
    """Makes the loss of a dual encoder.

    Args:
        model: The model.
        config: Which loss, and how it is computed.
        mesh: Computes the loss as a ring over the axis "data"; None leaves it to XLA, which keeps
            all logits of a row on its device, as it does for "candidates".
        candidates: All documents, which "candidates" asks for: `doc_ids`, `doc_lengths` (or
            `doc_pixels`) and `ids`.

    Returns:
        A LossFn `(params, batch, key) -> (loss, metrics)`. Batches have for each side, `query` and
        `doc`, the arrays `query_pixels`, or `query_ids` and `query_lengths`; and may have `ids` and
        `mask`, see `info_nce`, and `negative_ids` [batch, n, length] and `negative_lengths`
        [batch, n], hard negatives of each query. With "candidates" they have `targets`, rows of
        `candidates`, and documents are not looked at. Metrics: loss, scale, and of a sigmoid loss
        bias.

    Raises:
        ValueError: If the model lacks what the loss needs, or `candidates` are missing.
    """
    if config.kind == "sigmoid" and model.start_bias is None:
        raise ValueError("a sigmoid loss needs a bias: give the model start_bias=-10, for example.")
    if (config.kind == "candidates") != (candidates is not None):
        raise ValueError(
            "kind is 'candidates', but no candidates were given: pass all documents."
            if candidates is None
            else f"kind is {config.kind!r}, which takes no candidates: leave them out."
        )

    def encode(
        params: PyTree, sides: dict[str, tuple[Array, ...]], key: Key[Array, ""]
    ) -> dict[str, Array]:
        query_key, doc_key, view_key = jax.random.split(key, 3)
        keys = {"query": query_key, "doc": doc_key, "negative": jax.random.fold_in(doc_key, 1)}
        towers = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
        vectors = {}
        for place, (side, dropout_key) in enumerate(keys.items()):
            if side in sides:
                inputs = _prepare(sides[side], jax.random.fold_in(view_key, place), config)
                shape = inputs[-1].shape if side == "negative" else inputs[0].shape[:1]
                if side == "negative":
                    inputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
                found = model.apply(
                    {"params": towers},
                    *inputs,
                    deterministic=False,
                    rngs={"dropout": dropout_key},
                    method="encode_query" if side == "query" else "encode_doc",
                )
                vectors[side] = found.reshape(*shape, found.shape[-1])
        return vectors

    def encode_all(params: PyTree, key: Key[Array, ""]) -> dict[str, Array]:
        every = {"doc": tuple(map(jnp.asarray, side_inputs(candidates, "doc")))}
        if config.micro_batch is None:
            return encode(params, every, key)
        count = len(every["doc"][0])
        rows = jnp.arange(-(-count // config.micro_batch) * config.micro_batch) % count
        filled = jax.tree.map(lambda values: values[rows], every)
        found = encode_in_micro_batches(encode, params, filled, key, micro_batch=config.micro_batch)
        return {"doc": found["doc"][:count]}

    def loss_fn(
        params: PyTree, batch: Mapping[str, Any], key: Key[Array, ""]
    ) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        names = ["query", "doc"] if candidates is None else ["query"]
        names += ["negative"] if "negative_ids" in batch else []
        sides = {side: side_inputs(batch, side) for side in names}
        if config.micro_batch is None:
            vectors = encode(params, sides, key)
        else:
            vectors = encode_in_micro_batches(
                encode, params, sides, key, micro_batch=config.micro_batch
            )
        scale, bias = model.apply({"params": params}, method="scale_and_bias")
        mask, ids = batch.get("mask"), batch.get("ids")
        options = {"mask": mask, "ids": ids, "hard_negatives": vectors.get("negative")}
        if config.kind == "sigmoid":
            options |= {"scale": scale, "bias": bias}
        else:
            options["temperature"] = 1.0 / scale
        if candidates is not None:
            vectors |= encode_all(params, key)
            options["targets"] = batch["targets"]
            options["ids"] = None if ids is None else (ids, jnp.asarray(candidates["ids"]))
        losses = _choose(config, mesh)(vectors["query"], vectors["doc"], **options)
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
    if mesh is None or config.kind not in SHARDED:
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
