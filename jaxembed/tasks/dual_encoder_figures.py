"""The figures of dual encoders; matplotlib comes with the extra `experiments`."""

import functools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxembed.data import RetrievalSet
from jaxembed.tasks.curves import draw_curves, read_metrics

SHOWN, FOUND, ON_MAP = 24, 5, 400
WIDE = 34


def figures(
    name: str, test: RetrievalSet, queries: np.ndarray, docs: np.ndarray, folder: Path
) -> dict[str, Callable]:
    """Returns what can be drawn of a test and its vectors."""
    made = {"name": name, "test": test, "queries": queries, "docs": docs}
    drawings = {
        "similarity": functools.partial(draw_similarity, **made),
        "retrieved": functools.partial(draw_retrieved, **made),
        "retrieved-back": functools.partial(draw_retrieved_back, **made),
        "map": functools.partial(draw_map, **made),
    }
    if "loss" in read_metrics(folder):
        drawings["loss"] = functools.partial(_draw_loss, folder=folder)
    return drawings


def choose_queries(test: RetrievalSet, count: int) -> np.ndarray:
    """Rows of queries for a figure, at equal distances, each with another right candidate."""
    _, firsts = np.unique(test.relevant[:, 0], return_index=True)
    firsts = np.sort(firsts)
    return firsts[np.linspace(0, len(firsts) - 1, min(count, len(firsts))).astype(int)]


def draw_similarity(
    figure: Any, name: str, test: RetrievalSet, queries: np.ndarray, docs: np.ndarray
) -> None:
    """Cosines of queries with one another's right candidates: the diagonal should be bright."""
    rows = choose_queries(test, SHOWN)
    places = test.relevant[rows, 0]
    axes = figure.add_subplot()
    shown = axes.imshow(queries[rows] @ docs[places].T, cmap="viridis")
    labels = [_short(test.candidates[place]) for place in places]
    axes.set_xticks(range(len(rows)), labels, rotation=90, fontsize=6)
    queried = test.queries if isinstance(test.queries, tuple) else None
    named = labels if queried is None else [_short(queried[row]) for row in rows]
    axes.set_yticks(range(len(rows)), named, fontsize=6)
    axes.set_title(f"{name}: cosine of queries (rows) and right candidates (columns)", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8)


def draw_retrieved(
    figure: Any, name: str, test: RetrievalSet, queries: np.ndarray, docs: np.ndarray
) -> None:
    """A few queries with the candidates found for each, best first; right ones in green."""
    rows = choose_queries(test, 8)
    scores = queries[rows] @ docs.T
    if test.pools is not None:
        pools = zip(scores, test.pools[rows], strict=True)
        scores = np.stack([_within(one, pool) for one, pool in pools])
    order = np.argsort(-scores, axis=1)[:, :FOUND]
    for place, row in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, place + 1)
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        if isinstance(test.queries, tuple):
            axes.text(0, 0.5, _lines(test.queries[row]), fontsize=7, va="center", wrap=True)
        else:
            inner = axes.inset_axes((0.05, 0.0, 0.2, 1.0))
            _show(inner, test.queries[row])
        for rank, candidate in enumerate(order[place]):
            color = "green" if candidate in test.relevant[row] else "black"
            text = f"{scores[place, candidate]:.2f}  {_short(test.candidates[candidate], 70)}"
            axes.text(0.4, 0.9 - 0.2 * rank, text, fontsize=6.5, color=color, va="center")
    figure.suptitle(f"{name}: what is found for a query", fontsize=9)


def draw_retrieved_back(
    figure: Any, name: str, test: RetrievalSet, queries: np.ndarray, docs: np.ndarray
) -> None:
    """A few candidates with the queries found for each, best first; right ones framed."""
    places = test.relevant[choose_queries(test, 8), 0]
    scores = docs[places] @ queries.T
    order = np.argsort(-scores, axis=1)[:, :FOUND]
    for line, candidate in enumerate(places):
        for rank, row in enumerate(order[line]):
            axes = figure.add_subplot(len(places), FOUND, line * FOUND + rank + 1)
            is_right = candidate in test.relevant[row]
            color = "green" if is_right else "black"
            if isinstance(test.queries, tuple):
                axes.axis("off")
                text = _lines(test.queries[row], 24)
                axes.text(0, 0.5, text, fontsize=5, color=color, va="center")
            else:
                _show(axes, test.queries[row])
                for spine in axes.spines.values():
                    spine.set(color=color, linewidth=2 if is_right else 0.5)
            if rank == 0:
                axes.set_title(_short(test.candidates[candidate], 60), fontsize=6, loc="left")
    figure.suptitle(f"{name}: which queries are found for a candidate", fontsize=9)


def draw_map(
    figure: Any, name: str, test: RetrievalSet, queries: np.ndarray, docs: np.ndarray
) -> None:
    """Both towers' vectors on one plane by t-SNE; lines join pairs."""
    rows = choose_queries(test, ON_MAP)
    places = test.relevant[rows, 0]
    both = np.concatenate([queries[rows], docs[places]])
    if len(both) > 3:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        perplexity = min(30.0, (len(both) - 1) / 3)
        with threadpool_limits(1):  # several wait for each other on a busy machine
            both = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(both)
    first, second = both[: len(rows)], both[len(rows) :]
    axes = figure.add_subplot()
    for start, end in zip(first, second, strict=True):
        axes.plot(*np.stack([start, end])[:, :2].T, color="lightgrey", linewidth=0.5, zorder=1)
    axes.scatter(*first.T[:2], s=8, label="queries", zorder=2)
    axes.scatter(*second.T[:2], s=8, label="documents", zorder=2)
    for row in range(0, len(rows), max(1, len(rows) // 20)):
        axes.annotate(_short(test.candidates[places[row]], 24), second[row][:2], fontsize=5)
    axes.set(xticks=[], yticks=[], title=f"{name}: both towers (t-SNE)")
    axes.legend()


def _draw_loss(figure: Any, folder: Path) -> None:
    """Loss above, the learned scale below."""
    upper, lower = figure.subfigures(2, 1)
    draw_curves(upper, folder, ["loss"], xlabel="", ylabel="nats a pair")
    draw_curves(lower, folder, ["scale"], xlabel="step", ylabel="scale of the logits")


def _show(axes: Any, pixels: np.ndarray) -> None:
    axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray_r")
    axes.set(xticks=[], yticks=[])


def _within(scores: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Scores of a query's pool; others below all."""
    kept = np.full_like(scores, -2.0)
    kept[pool[pool >= 0]] = scores[pool[pool >= 0]]
    return kept


def _short(text: str, wide: int = WIDE) -> str:
    plain = " ".join(text.split())
    shown = plain if len(plain) <= wide else plain[: wide - 3].rstrip() + "..."
    return shown.replace("$", r"\$")


def _lines(text: str, wide: int = 40) -> str:
    return "\n".join(textwrap.wrap(text.replace("$", r"\$"), wide)[:5])
