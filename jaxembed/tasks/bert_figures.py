"""The figures of BERT's pre-training; matplotlib comes with the extra `experiments`."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from jaxembed.tasks.curves import draw_curves, read_metrics

GUESSES = ("unigram", "bigram", "bigram-both-sides")
GROUPS = 8


def draw_accuracy(figure: Any, folder: Path, stored: dict[str, np.ndarray]) -> None:
    """Accuracy in training, beside what counts reach on the text held out."""
    targets = stored["targets"][stored["targets"] >= 0]
    draw_curves(
        figure,
        folder,
        [name for name in ("word_accuracy", "next_accuracy") if name in read_metrics(folder)],
        xlabel="step",
        ylabel="share that is right",
    )
    (axes,) = figure.axes
    for number, name in enumerate(GUESSES):
        level = float(np.mean(stored[name] == targets))
        axes.axhline(level, color=f"C{number + 2}", linestyle="--", linewidth=1, label=name)
    axes.set(ylim=(0, 1))
    axes.legend()


def draw_by_frequency(figure: Any, stored: dict[str, np.ndarray], guesses: np.ndarray) -> None:
    """Accuracy by how often the hidden word occurs in the text that was learned from."""
    targets = stored["targets"][stored["targets"] >= 0]
    counts = np.maximum(stored["counts"][targets], 1)
    order = np.argsort(counts, kind="stable")
    groups = [group for group in np.array_split(order, GROUPS) if len(group)]
    centres = [float(np.exp(np.log(counts[group]).mean())) for group in groups]
    axes = figure.add_subplot()
    for name in ("model", *GUESSES):
        found = guesses if name == "model" else stored[name]
        shares = [float(np.mean(found[group] == targets[group])) for group in groups]
        style = "-" if name == "model" else "--"
        axes.plot(centres, shares, style, marker="o", markersize=4, label=name)
    axes.set(
        xscale="log",
        ylim=(0, 1),
        xlabel="occurrences of the hidden word in the training text (equally many targets a dot)",
        ylabel="share that is right, held out",
    )
    axes.grid(alpha=0.3)
    axes.legend()


def figures(folder: Path, stored: dict[str, np.ndarray], guesses: np.ndarray) -> dict[str, Any]:
    """Functions that draw on a figure, by name."""
    losses = [name for name in ("word_loss", "next_loss") if name in read_metrics(folder)]
    drawn = {
        "accuracy_by_frequency": functools.partial(
            draw_by_frequency, stored=stored, guesses=guesses
        )
    }
    if losses:
        drawn["loss"] = functools.partial(
            draw_curves, folder=folder, names=losses, xlabel="step", ylabel="nats"
        )
        drawn["accuracy"] = functools.partial(draw_accuracy, folder=folder, stored=stored)
    return drawn
