"""Adam, the optimizer of what is trained by gradients, with a rate that rises and falls."""

import dataclasses
from typing import Literal

import jax
import optax
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with decoupled weight decay.

    Attributes:
        lr: Highest learning rate.
        schedule: How the rate goes from `lr` to 0 after the warm-up: not at all, in a straight
            line, or along half a cosine.
        warmup: Share of all steps in which the rate rises from 0 to `lr`.
        batch_size: Examples a batch, over all devices.
        accumulate: Batches whose gradients are averaged for one update.
        weight_decay: Share of each weight taken away a unit of learning rate; biases, scales and
            other vectors keep theirs.
        clip_norm: Longest gradient; a longer one is scaled down. None clips nothing.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of their squares.

    References: Kingma & Ba, 2015, https://arxiv.org/abs/1412.6980, algorithm 1; Loshchilov &
    Hutter, 2019, https://arxiv.org/abs/1711.05101, algorithm 2.
    """

    lr: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    batch_size: int = 128
    accumulate: int = 1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a positive number.")
        for name in ("warmup", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 to below 1.")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; give 0 or more.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; give a positive number, or none.")


def make_optimizer(config: Adam, steps: int) -> optax.GradientTransformation:
    """Makes the optimizer of a run.

    Args:
        config: Rates and decays.
        steps: Batches of the whole run.

    Returns:
        The transformation; with `accumulate`, one whose updates are 0 between.
    """
    updates = max(1, steps // config.accumulate)
    adam = optax.adamw(
        _make_schedule(config, updates),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_is_matrix,
    )
    if config.clip_norm is not None:
        adam = optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
    if config.accumulate > 1:
        adam = optax.MultiSteps(adam, config.accumulate).gradient_transformation()
    return adam


def _make_schedule(config: Adam, updates: int) -> optax.Schedule:
    rising = round(config.warmup * updates)
    falling = max(1, updates - rising)
    fall = {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, 0.0, falling),
        "cosine": optax.cosine_decay_schedule(config.lr, falling),
    }[config.schedule]
    if not rising:
        return fall
    # From one step's worth: an update at rate 0 would be wasted.
    rise = optax.linear_schedule(config.lr / (rising + 1), config.lr, rising)
    return optax.join_schedules([rise, fall], [rising])


def _is_matrix(params: PyTree) -> PyTree:
    """True for what weight decay shrinks."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
