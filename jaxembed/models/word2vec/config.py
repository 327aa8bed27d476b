"""The settings of word2vec: which pairs, which updates, and the shape of a step."""

from dataclasses import dataclass
from typing import Literal

from jaxembed.models.word2vec.modules import CBOW, Objective, SkipGram

# Larger updates made NaN on real text; see experiments/benchmarks.
MOST_POSITIONS, MOST_DAMPING, UNDAMPED_POSITIONS = 8192, 8.0, 1024
UPDATES_AN_EPOCH = 1000  # at least, where a corpus has the words for it
LANES = 16  # matrix products run best where a tile's columns are a multiple
PARTS = 4  # independent chains of an update, see `step._split`


@dataclass(frozen=True)
class WindowPairs:
    """Which pairs of words enter the loss, and against what they are scored.

    Attributes:
        window: Largest distance of a pair; each position reaches a uniform 1..window.
        sample: Threshold of subsampling frequent words; 0 keeps every word.
        negatives: Negatives a prediction, in expectation; for negative sampling.
        exponent: Negatives are drawn in proportion to counts ** exponent.
    """

    window: int = 5
    sample: float = 1e-3
    negatives: int = 5
    exponent: float = 0.75

    def __post_init__(self) -> None:
        for name, least in {"window": 1, "sample": 0.0, "negatives": 1}.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")


@dataclass(frozen=True)
class RowSGD:
    """Stochastic gradient descent on the rows that an update touches.

    The learning rate falls linearly in the raw words seen.

    Attributes:
        lr: Learning rate at the start.
        final_lr: Learning rate at the end.
        damping: Occurrences of a row that one update sums at full strength, see `make_tables`.
        positions: Words that one update takes, about; fewer where the corpus is small.
        group: Neighbouring streams whose tiles share their negatives.
        shared: Negatives drawn for each group.
        loss_every: The loss is measured on all pairs of one in so many updates, which costs a
            third of such an update. It does not change the result.
    """

    lr: float = 0.04
    final_lr: float = 1e-5
    damping: float = 4.0
    positions: int = 2112
    group: int = 2
    shared: int = 32
    loss_every: int = 8

    def __post_init__(self) -> None:
        for name in ("lr", "damping", "positions", "group", "shared", "loss_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a positive number.")
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(f"final_lr is {self.final_lr}; give 0 to lr, which is {self.lr}.")
        damped = self.damping <= MOST_DAMPING and self.positions <= MOST_POSITIONS
        if not damped and self.positions > UNDAMPED_POSITIONS:
            raise ValueError(
                f"{self.positions} positions with damping {self.damping}: one update would sum "
                "too many gradients of the same stale tables, and diverged where it was measured. "
                f"Keep positions <= {MOST_POSITIONS} and damping <= {MOST_DAMPING}, or positions "
                f"<= {UNDAMPED_POSITIONS}."
            )


_TUNED = {
    ("skip-gram", "negative-sampling"): RowSGD(lr=0.03, damping=4.0),
    ("cbow", "negative-sampling"): RowSGD(lr=0.1, damping=2.0),
    ("skip-gram", "hierarchical-softmax"): RowSGD(lr=0.025, positions=576),
    ("cbow", "hierarchical-softmax"): RowSGD(lr=0.05, positions=576),
}


def tuned_optim(architecture: str, objective: Objective) -> RowSGD:
    """Settings chosen on 100 MB of English, see experiments/benchmarks/results."""
    return _TUNED.get((architecture, objective), RowSGD())


@dataclass(frozen=True)
class Step:
    """The shape of an update: what decides it, apart from vocabulary and random draws.

    Attributes:
        architecture: Which of the two predicts: the centre its window, or the window its centre.
        objective: How a prediction is scored.
        window: Largest distance of a pair; each position reaches a uniform 1..window.
        negatives: Negatives a prediction, in expectation.
        streams: Parallel streams, a multiple of `group`.
        length: Consecutive positions of a stream in one update.
        group: Neighbouring streams whose tiles share their negatives.
        shared: Negatives drawn for each group.
        slots: Tree nodes below the top ones handled at once, a tile.
        loss_every: The loss is measured on all pairs of one in so many updates.
    """

    architecture: Literal["skip-gram", "cbow"]
    objective: Objective
    window: int = 5
    negatives: int = 5
    streams: int = 96
    length: int = 22
    group: int = 2
    shared: int = 32
    slots: int = 64
    loss_every: int = 8


def make_step(model: SkipGram | CBOW, pairs: WindowPairs, optim: RowSGD, words: int) -> Step:
    """Lays out an update for a corpus of so many words."""
    if model.objective == "hierarchical-softmax":
        # A tree's products grow with the columns, so its tiles are short.
        length = 2 * pairs.window + 2
    else:
        length = -(-4 * pairs.window // LANES) * LANES - 2 * pairs.window
    positions = min(optim.positions, max(words // UPDATES_AN_EPOCH, 1))
    unit = PARTS * optim.group
    if positions >= 2 * unit * length:
        unit *= 2  # so that the groups divide over up to 8 devices
    return Step(
        architecture="cbow" if isinstance(model, CBOW) else "skip-gram",
        objective=model.objective,
        window=pairs.window,
        negatives=pairs.negatives,
        streams=max(positions // (length * unit), 1) * unit,
        length=length,
        group=optim.group,
        shared=optim.shared,
        loss_every=optim.loss_every,
        # What the paths of nearly every tile of English need below the top nodes.
        slots=-(-8 * length // LANES) * LANES,
    )
