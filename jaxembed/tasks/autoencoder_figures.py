"""The figures of autoencoders; matplotlib comes with the extra `experiments`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from jaxembed.data.images import Images
from jaxembed.models import AE, VAE
from jaxembed.tasks.curves import draw_curves, read_metrics

SHOWN, WALKS, ON_MAP = 10, 5, 1000


def draw_samples(model: VAE, params: PyTree, key: Key[Array, ""], count: int) -> Array:
    """Expected objects at codes drawn from the prior, [count, ...]."""
    codes = model.apply({"params": params}, key, count, method="sample_codes")
    return model.apply({"params": params}, codes, method="expected")


def draw_grid(figure: Any, images: np.ndarray, columns: int, titles: dict[int, str]) -> None:
    """Images in rows; `titles` by row."""
    rows = -(-len(images) // columns)
    for place, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if place % columns == 0 and place // columns in titles:
            axes.set_ylabel(titles[place // columns], fontsize=8)


def draw_reconstructions(figure: Any, model: AE | VAE, params: PyTree, test: Images) -> None:
    """Images held out above what their codes give back."""
    shown = test.pixels[:SHOWN]
    again = np.asarray(model.apply({"params": params}, shown, method="reconstruct"))
    titles = {0: "held out", 1: "rebuilt"}
    draw_grid(figure, np.concatenate([shown, again]), len(shown), titles)


def draw_walk(figure: Any, model: VAE, params: PyTree, test: Images) -> None:
    """Straight lines in the space of codes from one image to another, a row each."""
    pairs = min(WALKS, len(test) // 2)
    first, second = test.pixels[:pairs], test.pixels[pairs : 2 * pairs]
    walk = model.apply({"params": params}, first, second, SHOWN, method="interpolate")
    images = np.asarray(walk).swapaxes(0, 1).reshape(-1, *test.pixels.shape[1:])
    draw_grid(figure, images, SHOWN, {})


def draw_map(figure: Any, codes: np.ndarray, test: Images) -> None:
    """Codes on a plane, coloured by label; of more than two dimensions by t-SNE."""
    codes, title = codes[:ON_MAP], "codes"
    if codes.shape[1] == 1:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    if codes.shape[1] > 2 and len(codes) > 3:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        perplexity = min(30.0, (len(codes) - 1) / 3)
        with threadpool_limits(1):  # several wait for each other on a busy machine
            codes = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(codes)
        title = "codes (t-SNE)"
    axes = figure.add_subplot()
    labels = None if test.labels is None else test.labels[: len(codes)]
    places = axes.scatter(*codes.T[:2], c=labels, s=8, cmap="tab10" if labels is not None else None)
    axes.set(title=f"{title} of {len(codes)} examples held out", xticks=[], yticks=[])
    if labels is not None and len(np.unique(labels)) <= 20:
        handles, marks = places.legend_elements(num=None)
        names = test.classes or marks
        axes.legend(handles, names, fontsize=7, loc="best")


def draw_divergence(figure: Any, model: VAE, params: PyTree, test: Images) -> None:
    """How much each dimension of the code says about an example, in nats."""
    mean, log_var = model.apply({"params": params}, test.pixels, method="encode")
    terms = 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1.0 - log_var)
    nats = np.sort(np.asarray(terms.mean(axis=0)))[::-1]
    axes = figure.add_subplot()
    axes.bar(np.arange(1, len(nats) + 1), nats)
    axes.set(
        xlabel="dimension of the code, by rank",
        ylabel="divergence from the standard normal (nats)",
        title=f"{nats.sum():.1f} nats an example in {len(nats)} dimensions",
    )


def figures(
    model: AE | VAE, params: PyTree, test: Images, codes: np.ndarray, folder: Path
) -> dict[str, Callable]:
    """Returns what can be drawn from what the run directory holds."""
    drawings = {"codes": functools.partial(draw_map, codes=codes, test=test)}
    logged = read_metrics(folder)
    has_pictures = test.pixels.ndim > 2
    if has_pictures:
        drawings["reconstructions"] = functools.partial(
            draw_reconstructions, model=model, params=params, test=test
        )
    if "loss" in logged:
        names = [name for name in ("loss", "log_likelihood") if name in logged]
        if "kl" in logged:
            drawings["terms"] = functools.partial(_draw_terms, folder=folder)
            names = ["loss"]
        drawings["loss"] = lambda figure: draw_curves(
            figure, folder, names, xlabel="step", ylabel="nats an example"
        )
    if isinstance(model, VAE):
        drawings["divergence"] = functools.partial(
            draw_divergence, model=model, params=params, test=test
        )
        if has_pictures:
            drawings["walk"] = functools.partial(draw_walk, model=model, params=params, test=test)
            drawings["samples"] = functools.partial(_draw_sample_grid, model=model, params=params)
    return drawings


def _draw_sample_grid(figure: Any, model: VAE, params: PyTree) -> None:
    images = np.asarray(draw_samples(model, params, jax.random.key(0), SHOWN * SHOWN))
    draw_grid(figure, images, SHOWN, {})


def _draw_terms(figure: Any, folder: Path) -> None:
    """The two terms of the ELBO over time."""
    logged = read_metrics(folder)
    for place, (name, label) in enumerate(
        {"log_likelihood": "reconstruction: log p(x | z)", "kl": "divergence: KL(q || p)"}.items()
    ):
        axes = figure.add_subplot(2, 1, place + 1)
        axes.plot(logged[name]["step"], logged[name]["value"], linewidth=1.5)
        axes.set(ylabel="nats an example", title=label)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
