"""Recommending items from users' histories by a variational autoencoder, as a task."""

import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from jaxembed.data import Histories, load_histories
from jaxembed.metrics import ndcg_at_k, recall_at_k
from jaxembed.models import VAE
from jaxembed.tasks.autoencoder import abstract_params, judged_by_stored_files, make_loss
from jaxembed.tasks.curves import draw_curves
from jaxembed.tasks.gradient import check_batch, count_steps, train_on_device
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.vectors import KeyedVectors

AT_ONCE = 500
__all__ = ["abstract_params", "judged_by_stored_files"]


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Reads the histories; see `Task`."""
    del cache, texts
    check_batch(recipe)
    train, test = load_histories(recipe.data)
    if recipe.model.likelihood != "multinomial" or recipe.model.architecture != "dense":
        raise ValueError(
            f"likelihood {recipe.model.likelihood!r} and architecture "
            f"{recipe.model.architecture!r}: histories are modelled by 'multinomial' and 'dense'."
        )
    if recipe.model.shape not in ((), (train.item_count,)):
        raise ValueError(
            f"model.shape is {recipe.model.shape}, but there are {train.item_count} items: leave "
            "it empty."
        )
    resolved = {
        "shape": [train.item_count],
        "users": len(train),
        "choices": len(train.items),
        "test_choices": len(test.items),
        "fingerprint": train.fingerprint()[:32] + test.fingerprint()[:32],
    }
    files = {"eval/train.npz": _pack(train), "eval/test.npz": _pack(test)}
    return Prepared(train, resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches, whose rows the device fills; see `Task`."""
    train: Histories = prepared.data
    model = recipe.model
    users = np.flatnonzero(np.diff(train.starts))  # who chose nothing teaches nothing
    loss = make_loss(recipe, model, count_steps(recipe, len(users)))

    def loss_fn(params: PyTree, batch: PyTree, key: Array) -> Any:
        rows = indicators(batch["items"], item_count=train.item_count)
        return loss(params, {"x": rows, "mask": batch["mask"], "step": batch["step"]}, key)

    def init_fn(key: Array) -> PyTree:
        return model.init(key, jnp.zeros((1, train.item_count)))["params"]

    return train_on_device(recipe, mesh, {"items": train.padded(users)}, init_fn, loss_fn)


def indicators(
    items: Int[Array | np.ndarray, "users longest"], *, item_count: int
) -> Float[Array, "users items"]:
    """Rows with 1 at each user's items; -1 is no item."""
    rows = jnp.arange(items.shape[0])[:, None]
    places = jnp.where(items < 0, item_count, items)  # out of range, and so dropped
    return jnp.zeros((items.shape[0], item_count)).at[rows, places].set(1.0, mode="drop")


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Recall and nDCG of the items held out, beside the most popular ones; see `Task`."""
    train, test = load_stored(folder)
    model, k = recipe.model, recipe.evaluation.k
    users = np.flatnonzero(np.diff(test.starts))
    popular = jnp.asarray(train.counts(), jnp.float32)
    scores = {"": [], "/popularity": []}
    for start in range(0, len(users), AT_ONCE):
        chunk = users[start : start + AT_ONCE]
        padded = np.pad(chunk, (0, min(AT_ONCE, len(users)) - len(chunk)), mode="edge")
        seen = jnp.asarray(train.rows(padded))
        found = np.asarray(_recommend(model, params, seen, k))[: len(chunk)]
        known = np.asarray(_first_unseen(popular[None], seen, k))[: len(chunk)]
        scores[""].append(found)
        scores["/popularity"].append(known)
    wanted = test.padded(users)
    results = {}
    for name, parts in scores.items():
        found = np.concatenate(parts)
        for metric, function in {"recall": recall_at_k, "ndcg": ndcg_at_k}.items():
            value = float(np.mean(function(found, wanted, k)))
            results[f"{metric}@{k}{name}"] = Metric(value, len(users), 5e-4)
    return results


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns a vector of each item, which the decoder weighs the last layer by; see `Task`."""
    del folder
    kernels = [leaf for leaf in jax.tree.leaves(params["decoder"]) if leaf.ndim == 2]
    matrix = np.asarray(kernels[-1]).T
    return KeyedVectors([f"{item}" for item in range(len(matrix))], matrix)


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """The loss over epochs; see `Task`."""
    del recipe, params
    if not (folder / "metrics.jsonl").exists():
        return {}
    return {
        "loss": lambda figure: draw_curves(
            figure, folder, ["loss"], xlabel="epoch", ylabel="nats a user"
        )
    }


def load_stored(folder: Path) -> tuple[Histories, Histories]:
    """The training and test histories that a run holds to be judged by."""
    parts = []
    for name in ("train", "test"):
        with np.load(folder / f"eval/{name}.npz") as file:
            parts.append(Histories(file["starts"], file["items"], int(file["item_count"])))
    return parts[0], parts[1]


@functools.partial(jax.jit, static_argnames=("model", "k"))
def _recommend(model: VAE, params: PyTree, seen: Array, k: int) -> Array:
    mean, _ = model.apply({"params": params}, seen, method="encode")
    return _first_unseen(model.apply({"params": params}, mean, method="decode"), seen, k)


@functools.partial(jax.jit, static_argnames="k")
def _first_unseen(scores: Array, seen: Array, k: int) -> Array:
    """The k items of highest score that a user has not chosen yet."""
    return jax.lax.top_k(jnp.where(seen > 0, -jnp.inf, scores), k)[1]


def _pack(histories: Histories) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        starts=histories.starts,
        items=histories.items,
        item_count=np.int64(histories.item_count),
    )
    return stream.getvalue()
