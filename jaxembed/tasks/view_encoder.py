"""Encoders that learn from two views of an image as a task: probed beside no training and PCA."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxembed.data import load_images, read_objects
from jaxembed.metrics import knn_accuracy, linear_probe_accuracy, pca_codes
from jaxembed.models import ViewEncoder, make_view_loss
from jaxembed.tasks.autoencoder import (
    abstract_params,
    in_batches,
    init_params,
    judged_by_stored_files,
    load_examples,
    prepare_images,
    train_on_images,
)
from jaxembed.tasks.curves import draw_curves, read_metrics
from jaxembed.tasks.gradient import check_batch, run_keys
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.vectors import KeyedVectors

__all__ = [
    "abstract_params",
    "embed",
    "embed_pixels",
    "evaluate",
    "figures",
    "judged_by_stored_files",
    "prepare",
    "training",
    "vectors",
]


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Reads the images; see `Task`."""
    del cache, texts
    check_batch(recipe)
    train, test = load_images(recipe.data)
    shape = train.pixels.shape[1:]
    if len(shape) < 2:
        raise ValueError(f"{recipe.data.source} holds vectors: views are made of images.")
    if recipe.model.shape not in ((), shape):
        raise ValueError(
            f"model.shape is {recipe.model.shape}, but {recipe.data.source} has images of {shape}: "
            "leave it empty."
        )
    if test.pixels.shape[1:] != shape:
        raise ValueError(f"test images are {test.pixels.shape[1:]}, but those to train on {shape}.")
    return prepare_images(recipe, train, test)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches; see `Task`."""
    pixels = prepared.data.pixels
    init_fn = functools.partial(init_params, recipe.model)
    loss_fn = make_view_loss(recipe.model, recipe.loss)
    return train_on_images(recipe, mesh, pixels, init_fn, loss_fn)


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Probes of the codes, beside those of the untrained encoder and of PCA; see `Task`."""
    train, test = load_examples(folder)
    if train.labels is None or len(np.unique(train.labels)) < 2:
        return {}
    untrained = init_params(recipe.model, run_keys(recipe)[0])
    size = min(recipe.model.dim, *train.pixels.reshape(len(train), -1).shape)
    pixels = (train.pixels, test.pixels)
    codes = {
        "": tuple(embed_pixels(recipe.model, params, part) for part in pixels),
        "/untrained": tuple(embed_pixels(recipe.model, untrained, part) for part in pixels),
        f"/pca-{size}": pca_codes(*pixels, size=size)[:2],
    }
    neighbours = min(recipe.evaluation.neighbours, len(train))
    knn = functools.partial(knn_accuracy, neighbours=neighbours)
    return {
        f"{name}{label}": Metric(
            probe(first, train.labels, second, test.labels), len(test), 3.0 / len(test)
        )
        for name, probe in {"linear_probe": linear_probe_accuracy, "knn": knn}.items()
        for label, (first, second) in codes.items()
    }


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the codes of the images held out, by row and class; see `Task`."""
    _, test = load_examples(folder)
    names = [f"{row}" for row in range(len(test))]
    if test.labels is not None:
        classes = test.classes or [f"{label}" for label in range(int(test.labels.max()) + 1)]
        names = [f"{row}:{classes[label]}" for row, label in enumerate(test.labels)]
    return KeyedVectors(names, embed_pixels(recipe.model, params, test.pixels))


def embed(run: Any, source: Any) -> np.ndarray:
    """Codes of images. See `Run.embed`."""
    pixels = read_objects(run.recipe.data, source)
    if pixels.shape[1:] != run.model.shape:
        raise ValueError(
            f"{source} has images of shape {pixels.shape[1:]}, but {run.path} was trained on "
            f"{run.model.shape}."
        )
    return embed_pixels(run.model, run.params, pixels)


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Loss and accuracy over time, and a map of the codes; see `Task`."""
    _, test = load_examples(folder)
    codes = embed_pixels(recipe.model, params, test.pixels)

    def draw_map(figure: Any) -> None:
        axes = figure.add_subplot()
        _, places, _ = pca_codes(codes, codes, size=2)
        drawn = axes.scatter(*places.T, c=test.labels, cmap="tab10", s=8)
        if test.labels is not None:
            figure.colorbar(drawn, ax=axes, label="class")
        axes.set(xlabel="first principal component", ylabel="second", title="codes held out")

    drawn = {"map": draw_map}
    if "loss" in read_metrics(folder):
        nats = {"xlabel": "epoch", "ylabel": "nats"}
        drawn["loss"] = functools.partial(draw_curves, folder=folder, names=["loss"], **nats)
    return drawn


def embed_pixels(model: ViewEncoder, params: PyTree, pixels: np.ndarray) -> np.ndarray:
    """Codes, batch by batch."""
    return in_batches(_encode, model, params, pixels)


@functools.partial(jax.jit, static_argnames="model")
def _encode(model, params, x):
    return model.apply({"params": params}, x, method="encode")
