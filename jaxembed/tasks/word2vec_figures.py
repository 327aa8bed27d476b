"""The figures of a word2vec run; matplotlib comes with the extra `experiments`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxembed.metrics.words import evaluate_analogies, read_analogies
from jaxembed.tasks.curves import read_metrics
from jaxembed.vectors import KeyedVectors

WORDS_ON_MAP = 250
SKIPPED = 100  # the most frequent words say little


def draw_loss(figure: Any, folder: Path) -> None:
    """Loss over the words seen."""
    loss = read_metrics(folder)["loss"]
    axes = figure.add_subplot()
    axes.plot(np.cumsum(loss["work"]) / 1e6, loss["value"], linewidth=1.5)
    axes.set(xlabel="million words seen", ylabel="loss (nats a prediction)")
    axes.grid(alpha=0.3)


def draw_map(figure: Any, vectors: KeyedVectors) -> None:
    """Frequent words on a plane by t-SNE of their cosine distances."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    first = min(SKIPPED, len(vectors) // 4)
    count = min(WORDS_ON_MAP, len(vectors) - first)
    chosen = vectors.matrix[first : first + count]
    unit = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    unit = np.pad(unit, ((0, 0), (0, max(0, 2 - vectors.dim))))
    perplexity = min(15.0, (count - 1) / 3)
    model = TSNE(init="pca", metric="cosine", perplexity=perplexity, random_state=0)
    # So few points take one thread a second; several wait for each other on a busy machine, half a
    # minute where it was measured.
    with threadpool_limits(1):
        places = model.fit_transform(unit) if count > 3 else unit[:, :2]
    axes = figure.add_subplot()
    axes.scatter(*places.T, s=3, alpha=0.4)
    for (x, y), word in zip(places, vectors.keys[first : first + count], strict=True):
        axes.annotate(word, (x, y), fontsize=6, ha="center", va="bottom", parse_math=False)
    axes.set_axis_off()
    axes.set_title(f"{count} frequent words, from rank {first + 1} on (t-SNE)")


def draw_analogies(figure: Any, vectors: KeyedVectors, questions: Path, limit: int) -> None:
    """Accuracy of every section as a heat map, one column for each way of asking."""
    sections = read_analogies(questions)
    methods = ("3CosAdd", "3CosMul")
    scores = [
        evaluate_analogies(
            vectors.keys, vectors.matrix, sections, restrict_vocab=limit, method=method
        )
        for method in methods
    ]
    names = [section.name for section in scores[0].sections if section.total]
    table = np.array([[s.accuracy for s in score.sections if s.total] for score in scores], float).T
    axes = figure.add_subplot()
    if not names:
        axes.text(0.5, 0.5, "no question is of known words", ha="center")
        return
    image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    totals = {section.name: section.total for section in scores[0].sections}
    axes.set_yticks(range(len(names)), [f"{name} ({totals[name]})" for name in names], fontsize=8)
    axes.set_xticks(range(len(methods)), methods)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white", fontsize=8)
    figure.colorbar(image, label="share answered rightly")


def figures(recipe: Any, vectors: KeyedVectors, folder: Path) -> dict[str, Callable]:
    """Returns what can be drawn from what the run directory holds."""
    drawings = {"map": lambda figure: draw_map(figure, vectors)}
    if "loss" in read_metrics(folder):
        drawings["loss"] = lambda figure: draw_loss(figure, folder)
    questions = folder / "eval/analogies.txt"
    if questions.exists():
        drawings["analogies"] = lambda figure: draw_analogies(
            figure, vectors, questions, recipe.evaluation.restrict_vocab
        )
    return drawings
