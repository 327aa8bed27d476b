"""What `word_in_context` draws."""

from typing import Any

import numpy as np


def draw_maps(figure: Any, word: str, vectors: np.ndarray, senses: list[str]) -> None:
    """Principal components of a word's vectors, layer by layer, coloured by sense."""
    plots = figure.subplots(1, len(vectors), squeeze=False)[0]
    for layer, (axes, found) in enumerate(zip(plots, vectors, strict=True)):
        centred = found - found.mean(axis=0)
        places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        for sense in dict.fromkeys(senses):
            chosen = places[[name == sense for name in senses]]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=18, label=f"{word} ({sense})")
        # One scale: what context has not entered yet is a point.
        reach = 0.7 * max(float(np.linalg.norm(found, axis=1).mean()), 1e-12)
        axes.set(title="embedding" if layer == 0 else f"layer {layer}", xticks=[], yticks=[])
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    plots[0].legend(fontsize=7, loc="lower left")


def draw_measures(figure: Any, measures: dict[str, np.ndarray]) -> None:
    """Similarity of each word with itself, and how well its senses part, over the layers."""
    left, right = figure.subplots(1, 2)
    for number, (word, rows) in enumerate(measures.items()):
        layers, colour = range(len(rows)), f"C{number}"
        left.plot(layers, rows[:, 0], color=colour, marker="o", markersize=3, label=word)
        left.plot(layers, rows[:, 1], color=colour, linestyle=":", linewidth=1)
        right.plot(layers, rows[:, 2], color=colour, marker="o", markersize=3, label=word)
    left.set(xlabel="layer", ylabel="mean cosine: with itself, of all words (dotted)")
    right.set(xlabel="layer", ylabel="nearest other has the same sense", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8)
