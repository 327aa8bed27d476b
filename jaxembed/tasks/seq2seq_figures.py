"""Figures of an encoder-decoder: curves, alignments, a search as a tree, quality by beam size."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxembed.data import Pairs
from jaxembed.data.tokens import BOS, EOS, PAD, UNKNOWN, AnyVocabulary
from jaxembed.models import Seq2Seq
from jaxembed.tasks.curves import draw_curves

BEAMS = (1, 2, 4, 8, 16)
TRIED = 256  # test items that beam sizes are compared on
TREE_BEAM, TREE_STEPS = 3, 14
ALIGNED = 4


@dataclasses.dataclass(frozen=True)
class Branch:
    """A beginning that the search looked at.

    Attributes:
        step: Length of the beginning; the root has 0.
        parent: Place of the beginning that it extends, in the list of branches.
        token: Its last token.
        score: Sum of its log-probabilities in nats.
        fate: "live", "finished" or "pruned".
    """

    step: int
    parent: int
    token: int
    score: float
    fate: str


def figures(
    model: Any,
    params: PyTree,
    folder: Path,
    test: Pairs,
    vocabularies: Sequence[AnyVocabulary],
    *,
    max_len: int,
    try_beam: Callable[[int, Sequence[str]], list[str]],
    measure: Callable[[Sequence[str], Pairs], tuple[str, float]],
) -> dict[str, Callable]:
    """Functions that draw, by name."""

    def curves(figure: Any) -> None:
        draw_curves(figure, folder, ["loss", "accuracy"], xlabel="step", ylabel="nats, share")

    drawn = {
        "loss": curves,
        "beam_tree": functools.partial(_draw_tree, model, params, test, vocabularies, max_len),
        "beam_sizes": functools.partial(_draw_sizes, test, try_beam, measure),
    }
    if isinstance(model, Seq2Seq) and model.context not in ("last", "mean"):
        drawn["alignment"] = functools.partial(
            _draw_alignments, model, params, test, vocabularies, max_len, try_beam
        )
    return drawn


def trace_search(
    model: Any, params: PyTree, source: Sequence[int], *, beam_size: int, max_len: int
) -> list[Branch]:
    """Follows a beam search without penalty, and keeps what it pruned.

    Args:
        model: An encoder-decoder.
        params: Its parameters.
        source: Ids of one source.
        beam_size: Live beginnings.
        max_len: Most steps.

    Returns:
        The root, and for each step the `beam_size` best continuations without EOS, which live on,
        those of the `beam_size` best that finish, and about as many again that are pruned.
    """
    variables = {"params": params}
    ids = jnp.asarray([list(source)], jnp.int32)
    cache, context = model.apply(
        variables, ids, jnp.asarray([len(source)]), max_len=max_len, method="encode"
    )
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, beam_size, axis=0), cache)
    step = jax.jit(functools.partial(model.apply, variables, method="decode_step"))
    branches = [Branch(0, -1, BOS, 0.0, "live")]
    live = [0]
    for number in range(1, max_len + 1):
        tokens = [branches[place].token for place in live]
        padded = tokens + tokens[:1] * (beam_size - len(live))
        logits, cache = step(jnp.asarray(padded, jnp.int32), cache, context)
        steps = np.array(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)
        steps[:, [PAD, BOS, UNKNOWN]] = -np.inf
        totals = np.array([branches[place].score for place in live])[:, None] + steps[: len(live)]
        best = np.argsort(-totals, axis=None, kind="stable")[: 3 * beam_size]
        new, rows = [], []
        for rank, flat in enumerate(best):
            row, token = divmod(int(flat), totals.shape[1])
            if token == EOS and rank < beam_size:
                fate = "finished"
            elif token != EOS and len(new) < beam_size and number < max_len:
                fate = "live"
                new.append(len(branches))
                rows.append(row)
            elif rank < 2 * beam_size:
                fate = "pruned"
            else:
                continue
            branches.append(Branch(number, live[row], token, float(totals[row, token]), fate))
        finished = [branch.score for branch in branches if branch.fate == "finished"]
        if not new or (finished and max(finished) >= branches[new[0]].score):
            for place in new:  # the search ends here: none of them can win
                branches[place] = dataclasses.replace(branches[place], fate="pruned")
            break
        rows += rows[:1] * (beam_size - len(rows))
        cache = jax.tree.map(lambda leaf, rows=rows: leaf[jnp.asarray(rows)], cache)
        live = new
    return branches


def _draw_tree(model, params, test, vocabularies, max_len, figure):
    """One search, step by step from left to right; each column from the best score down."""
    source, target = vocabularies
    text = _examples(test, source, max_len, 0.25)[0]  # a longer one would not be readable
    branches = trace_search(
        model,
        params,
        [*source.encode(text), EOS],
        beam_size=TREE_BEAM,
        max_len=min(max_len, TREE_STEPS),
    )
    finished = [branch for branch in branches if branch.fate == "finished"]
    best = max(finished, key=lambda branch: branch.score, default=None)
    on_path, branch = [], best
    while branch is not None:
        on_path.append(branch)
        branch = branches[branch.parent] if branch.parent >= 0 else None
    columns: dict[int, int] = {}
    places = []
    for branch in branches:
        places.append((branch.step, -columns.get(branch.step, 0)))
        columns[branch.step] = columns.get(branch.step, 0) + 1
    figure.set_size_inches(max(8.0, 1.1 * len(columns)), 6.0)
    axes = figure.add_subplot()
    colours = {"live": "tab:blue", "finished": "tab:green", "pruned": "0.6"}
    for branch, (x, y) in zip(branches, places, strict=True):
        is_best = branch in on_path
        if branch.parent >= 0:
            x0, y0 = places[branch.parent]
            axes.plot(
                [x0 + 0.28, x - 0.28],
                [y0, y],
                color=colours[branch.fate],
                linewidth=2.5 if is_best else 0.8,
                linestyle="--" if branch.fate == "pruned" else "-",
                zorder=1,
            )
        label = "start" if branch.parent < 0 else _name(target, branch.token)
        axes.text(
            x,
            y,
            f"{label}\n{branch.score:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color=colours[branch.fate],
            weight="bold" if is_best else "normal",
        )
    axes.set(
        xlim=(-0.6, max(columns) + 0.6),
        ylim=(-max(columns.values()) - 0.2, 0.7),
        title=f"{text}   (beam {TREE_BEAM}: live blue, finished green, pruned grey; best bold)",
    )
    axes.axis("off")


def _draw_sizes(test, try_beam, measure, figure):
    """Quality and time against the size of the beam."""
    part = Pairs(test.sources[:TRIED], test.references[:TRIED], test.name)
    values, times = [], []
    for size in BEAMS:
        try_beam(size, part.sources)  # compiles
        started = time.perf_counter()
        found = try_beam(size, part.sources)
        times.append((time.perf_counter() - started) / len(part) * 1e3)
        name, value = measure(found, part)
        values.append(value)
    axes = figure.add_subplot()
    axes.plot(BEAMS, values, marker="o", color="tab:blue")
    axes.set_xscale("log", base=2)
    axes.set_xticks(BEAMS, [str(size) for size in BEAMS])
    axes.set(xlabel="beam", title=f"{len(part)} sentences")
    axes.set_ylabel(name.replace("_", " "), color="tab:blue")
    axes.grid(alpha=0.3)
    other = axes.twinx()
    other.plot(BEAMS, times, marker="s", color="tab:orange", linestyle="--")
    other.set_ylabel("milliseconds a sentence", color="tab:orange")
    other.set_ylim(bottom=0)


def _draw_alignments(model, params, test, vocabularies, max_len, try_beam, figure):
    """What each token of a translation attends to."""
    source, target = vocabularies
    texts = _examples(test, source, max_len, 0.75)
    found = try_beam(1, texts)
    figure.set_size_inches(11, 9)
    for axes, text, answer in zip(figure.subplots(2, 2).flat, texts, found, strict=False):
        read = [*source.encode(text), EOS]
        said = [*target.encode(answer), EOS]
        weights = model.apply(
            {"params": params},
            jnp.asarray([read], jnp.int32),
            jnp.asarray([len(read)]),
            jnp.asarray([[BOS, *said[:-1]]], jnp.int32),
            method="align",
        )
        axes.imshow(np.asarray(weights[0]).T, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(said)), [_name(target, token) for token in said], rotation=90)
        axes.set_yticks(range(len(read)), [_name(source, token) for token in read])
        axes.tick_params(labelsize=8)


def _examples(test: Pairs, source: AnyVocabulary, max_len: int, quantile: float) -> list[str]:
    """Test items whose length is at the quantile or a little below."""
    lengths = np.array([len(source.encode(text)) for text in test.sources])
    most = min(np.quantile(lengths, quantile), max_len - 1)
    order = np.argsort(np.where(lengths <= most, -lengths, 0), kind="stable")
    return [test.sources[place] for place in order[:ALIGNED]]


def _name(vocabulary: AnyVocabulary, token: int) -> str:
    return "end" if token == EOS else vocabulary.tokens[token]
