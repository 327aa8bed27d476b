"""Autoencoders and variational autoencoders of images and vectors as a task."""

import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxembed.data import ImageSet, load_images, read_objects
from jaxembed.data.images import Images, versions
from jaxembed.metrics import (
    active_units,
    bits_per_dimension,
    importance_log_likelihood,
    knn_accuracy,
    linear_probe_accuracy,
    pca_codes,
)
from jaxembed.models import AE, VAE, make_autoencoder_loss, make_iwae_loss, make_vae_loss
from jaxembed.tasks import autoencoder_figures
from jaxembed.tasks.gradient import (
    check_batch,
    count_steps,
    run_keys,
    train_on_device,
    train_streamed,
)
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.train import LossFn
from jaxembed.train.state import InitFn
from jaxembed.vectors import KeyedVectors

HELD_ON_DEVICE = 1 << 30  # bytes
AT_ONCE = 1000
BOUNDED = ("bernoulli", "multinomial", "discretized-logistic")


class Rows:
    """Examples one by one; a source for `make_batches`."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"x": self.pixels[row]}


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Reads the images; see `Task`."""
    del cache, texts
    check_batch(recipe)
    train, test = load_images(recipe.data)
    shape = train.pixels.shape[1:]
    if recipe.model.shape not in ((), shape):
        raise ValueError(
            f"model.shape is {recipe.model.shape}, but {recipe.data.source} has examples of "
            f"{shape}: leave it empty."
        )
    if test.pixels.shape[1:] != shape:
        raise ValueError(f"test images are {test.pixels.shape[1:]}, but those to train on {shape}.")
    if recipe.model.likelihood in BOUNDED and (train.pixels.min() < 0 or train.pixels.max() > 1):
        raise ValueError(
            f"{recipe.data.source} has values from {train.pixels.min()} to {train.pixels.max()}, "
            f"but likelihood {recipe.model.likelihood!r} is of values from 0 to 1: use 'gaussian'."
        )
    grey = train.pixels[(train.pixels > 0) & (train.pixels < 1)]
    if recipe.model.likelihood == "bernoulli" and recipe.data.binarization == "none" and grey.size:
        raise ValueError(
            f"{recipe.data.source} has values such as {grey[0]:.3g}, to which 'bernoulli' gives no "
            "likelihood: set data.binarization, or model.likelihood discretized-logistic or "
            "gaussian."
        )
    if recipe.model.likelihood in ("categorical", "mixed"):
        raise ValueError(
            f"likelihood {recipe.model.likelihood!r} is of classes, and images have none: train "
            "such a model with `jaxembed.train`."
        )
    return prepare_images(recipe, train, test)


def prepare_images(recipe: Any, train: Images, test: Images) -> Prepared:
    """What a run of any model of images stores and resolves."""
    shape = train.pixels.shape[1:]
    # A model that cannot be made shall be known before a directory is written.
    abstract_params(recipe.with_sizes({"shape": list(shape)}), {})
    most = recipe.evaluation.most
    files = {
        "eval/test.npz": pack_examples(test, most),
        "eval/train.npz": pack_examples(train, 5 * most),
    }
    resolved = {
        "shape": list(shape),
        "count": len(train),
        "test_count": len(test),
        "fingerprint": train.fingerprint()[:32] + test.fingerprint()[:32],
        "versions": versions(recipe.data.source),
    }
    return Prepared(train, resolved, files)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches; see `Task`."""
    pixels = prepared.data.pixels
    model = recipe.model
    loss_fn = make_loss(recipe, model, count_steps(recipe, len(pixels)))
    init_fn = functools.partial(init_params, model)
    return train_on_images(recipe, mesh, pixels, init_fn, loss_fn)


def train_on_images(
    recipe: Any, mesh: Mesh, pixels: np.ndarray, init_fn: InitFn, loss_fn: LossFn
) -> Training:
    """Makes the training on images, which the device holds unless they are too many."""
    if pixels.nbytes > HELD_ON_DEVICE:
        return train_streamed(recipe, mesh, Rows(pixels), init_fn, loss_fn)
    return train_on_device(recipe, mesh, {"x": pixels}, init_fn, loss_fn)


def make_loss(recipe: Any, model: AE | VAE, steps: int) -> LossFn:
    """The LossFn that a recipe's `loss` describes."""
    loss = recipe.loss
    is_dynamic = isinstance(recipe.data, ImageSet) and recipe.data.binarization == "dynamic"
    binarization = "dynamic" if is_dynamic else "none"
    if isinstance(model, AE):
        return make_autoencoder_loss(
            model,
            corruption=loss.corruption,
            corruption_rate=loss.corruption_rate,
            sparsity=loss.sparsity,
            binarization=binarization,
        )
    if loss.bound == "iwae":
        return make_iwae_loss(
            model, samples=loss.samples, gradient=loss.gradient, binarization=binarization
        )
    return make_vae_loss(
        model,
        beta=loss.beta,
        warmup_steps=round(loss.warmup * steps),
        minimum_kl=loss.free_nats,
        samples=loss.samples,
        binarization=binarization,
    )


def abstract_params(recipe: Any, resolved: dict[str, Any]) -> PyTree:
    """Says shape and dtype of the parameters; see `Task`."""
    del resolved
    return jax.eval_shape(functools.partial(init_params, recipe.model), jax.random.key(0))


def judged_by_stored_files(recipe: Any, folder: Path) -> Any:
    """Returns the recipe itself: it names no files to be judged by; see `Task`."""
    del folder
    return recipe


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Likelihood, reconstruction and probes of the codes, beside PCA's; see `Task`."""
    train, test = load_examples(folder)
    model = recipe.model
    codes, test_codes = (embed_pixels(model, params, part.pixels) for part in (train, test))
    count = len(test)
    reconstructed = in_batches(_reconstruct, model, params, test.pixels)
    error = np.sum((reconstructed - test.pixels).reshape(count, -1) ** 2, axis=1).mean()
    results = {"squared_error": Metric(float(error), count, 1e-3 * float(error))}
    size = min(model.latent, *train.pixels.reshape(len(train), -1).shape)
    pca, test_pca, pca_error = pca_codes(train.pixels, test.pixels, size=size)
    results[f"squared_error/pca-{size}"] = Metric(pca_error, count, 1e-3 * pca_error)
    if isinstance(model, VAE):
        results |= _judge_likelihood(recipe, model, params, test)
        results["active_units"] = Metric(float(active_units(test_codes)), count, 0.0)
    if train.labels is not None and len(np.unique(train.labels)) > 1:
        neighbours = min(recipe.evaluation.neighbours, len(train))
        knn = functools.partial(knn_accuracy, neighbours=neighbours)
        for name, probe in {"knn": knn, "linear_probe": linear_probe_accuracy}.items():
            for label, (first, second) in {
                name: (codes, test_codes),
                f"{name}/pca-{size}": (pca, test_pca),
            }.items():
                accuracy = probe(first, train.labels, second, test.labels)
                results[label] = Metric(accuracy, count, 3.0 / count)
    return results


def _judge_likelihood(recipe: Any, model: VAE, params: PyTree, test: Images) -> dict[str, Metric]:
    """Nats of the examples held out: the ELBO and the importance-sampled log-likelihood."""
    key, count = run_keys(recipe)[2], len(test)
    bound_key, key = jax.random.split(key)
    bound, _ = importance_log_likelihood(model, params, test.pixels, bound_key, samples=1)
    log_likelihood, error = importance_log_likelihood(
        model, params, test.pixels, key, samples=recipe.evaluation.samples
    )
    results = {
        "elbo": Metric(float(bound.mean()), count, 0.05),
        "log_likelihood": Metric(float(log_likelihood.mean()), count, 0.05),
    }
    if recipe.evaluation.samples > 1:
        spread = float(np.sqrt(np.square(error).sum())) / count
        results["log_likelihood/standard_error"] = Metric(spread, count, 0.05)
    bits = bits_per_dimension(log_likelihood, dimensions=int(np.prod(model.shape)))
    results["bits_per_dimension"] = Metric(float(bits.mean()), count, 0.01)
    return results


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the codes of the examples held out, by row and class; see `Task`."""
    _, test = load_examples(folder)
    model = recipe.model
    names = [f"{row}" for row in range(len(test))]
    if test.labels is not None:
        classes = test.classes or [f"{label}" for label in range(int(test.labels.max()) + 1)]
        names = [f"{row}:{classes[label]}" for row, label in enumerate(test.labels)]
    return KeyedVectors(names, embed_pixels(model, params, test.pixels))


def embed(run: Any, source: Any) -> np.ndarray:
    """Codes of images or vectors; posterior means of a VAE. See `Run.embed`."""
    pixels = read_objects(run.recipe.data, source)
    if pixels.shape[1:] != run.model.shape:
        raise ValueError(
            f"{source} has examples of shape {pixels.shape[1:]}, but {run.path} was trained on "
            f"{run.model.shape}."
        )
    return embed_pixels(run.model, run.params, pixels)


def sample(run: Any, key: Key[Array, ""], count: int) -> np.ndarray:
    """Expected images at codes drawn from the prior. See `Run.sample`."""
    if not isinstance(run.model, VAE):
        raise ValueError(
            f"{run.path} is a run of an autoencoder, which has no distribution of codes to draw "
            "from: train a VAE."
        )
    return np.asarray(autoencoder_figures.draw_samples(run.model, run.params, key, count))


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Reconstructions, codes and, of a VAE, samples, walks and its two terms; see `Task`."""
    _, test = load_examples(folder)
    model = recipe.model
    return autoencoder_figures.figures(
        model, params, test, embed_pixels(model, params, test.pixels), folder
    )


def load_examples(folder: Path) -> tuple[Images, Images]:
    """The training and test examples that a run holds to be judged by."""
    parts = []
    for name in ("train", "test"):
        with np.load(folder / f"eval/{name}.npz") as file:
            labels = file["labels"] if "labels" in file else None
            parts.append(Images(file["pixels"], labels, tuple(map(str, file["classes"]))))
    return parts[0], parts[1]


def embed_pixels(model: AE | VAE, params: PyTree, pixels: np.ndarray) -> np.ndarray:
    """Codes, or means of codes, batch by batch."""
    return in_batches(_encode, model, params, pixels)


def in_batches(function: Any, model: Any, params: PyTree, pixels: np.ndarray) -> np.ndarray:
    """Applies a function to equal batches, so that it is compiled once."""
    size = min(AT_ONCE, len(pixels))
    parts = []
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size]
        padding = [(0, size - len(part))] + [(0, 0)] * (pixels.ndim - 1)
        parts.append(np.asarray(function(model, params, np.pad(part, padding)))[: len(part)])
    return np.concatenate(parts)


def pack_examples(images: Images, most: int) -> bytes:
    """The first images as an .npz file; what is drawn from was shuffled, or came so."""
    images = images.take(np.arange(min(most, len(images))))
    arrays = {"pixels": images.pixels, "classes": np.array(images.classes, np.str_)}
    if images.labels is not None:
        arrays["labels"] = images.labels
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@functools.partial(jax.jit, static_argnames="model")
def _encode(model, params, x):
    code = model.apply({"params": params}, x, method="encode")
    return code[0] if isinstance(model, VAE) else code


@functools.partial(jax.jit, static_argnames="model")
def _reconstruct(model, params, x):
    return model.apply({"params": params}, x, method="reconstruct")


def init_params(model: Any, key: Array) -> PyTree:
    """The first parameters of a model of images of `model.shape`."""
    return model.init(key, jnp.zeros((1, *model.shape)))["params"]
