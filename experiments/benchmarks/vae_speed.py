"""Likelihood estimation, training and a sweep of VAEs, against pythae and torch, interleaved.

python -m experiments.benchmarks.vae_speed [--rounds 5]

Needs torch and pythae. Every figure is a minimum and a median over rounds, in each of which both
sides run one after the other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from experiments.benchmarks.record import record
from jaxembed.metrics import importance_log_likelihood
from jaxembed.models import VAE, make_vae_loss
from jaxembed.train import (
    gradient_step,
    make_epoch_step,
    make_state,
    make_sweep_state,
    make_sweep_step,
)

THREADS = 2
OPTIMIZER = optax.adam(1e-3)
# Pixels, hidden layers, latent units, batch, batches of an epoch.
SIZES = {"digits": (64, (128, 64), 8, 128, 11), "mnist": (784, (400,), 20, 128, 20)}


class TorchVAE(torch.nn.Module):
    """The same model as `VAE` with a Bernoulli likelihood by logits."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latent: int):
        super().__init__()
        self.encoder = self._stack(pixels, hidden, 2 * latent)
        self.decoder = self._stack(latent, hidden[::-1], pixels)

    @staticmethod
    def _stack(inputs: int, hidden: tuple[int, ...], outputs: int) -> torch.nn.Sequential:
        layers: list[torch.nn.Module] = []
        for width in hidden:
            layers += [torch.nn.Linear(inputs, width), torch.nn.ReLU()]
            inputs = width
        return torch.nn.Sequential(*layers, torch.nn.Linear(inputs, outputs))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """The mean negative ELBO."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            self.decoder(z), x, reduction="sum"
        )
        kl = 0.5 * torch.sum(mean**2 + log_var.exp() - 1 - log_var)
        return (cross_entropy + kl) / len(x)


def interleave(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def draw(rows: int, pixels: int) -> np.ndarray:
    return (np.random.default_rng(0).random((rows, pixels)) < 0.5).astype(np.float32)


def time_training(size: str, rounds: int) -> None:
    """An epoch of ours against the same steps in torch; and a bare product of that size."""
    pixels, hidden, latent, batch, batches = SIZES[size]
    x = draw(batch * batches, pixels)
    model = VAE((pixels,), latent=latent, hidden=hidden)
    state = make_state(model.init(jax.random.key(0), x[:1])["params"], OPTIMIZER)
    step = gradient_step(make_vae_loss(model), OPTIMIZER, key=jax.random.key(1))
    epoch = jax.jit(
        make_epoch_step(step, {"x": jnp.asarray(x)}, batch_size=batch, key=jax.random.key(2)),
        donate_argnums=0,
    )
    theirs = TorchVAE(pixels, hidden, latent)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    rows = torch.tensor(x)

    def run_ours() -> None:
        nonlocal state
        state, metrics = epoch(state, {"epoch": np.int32(0)})
        jax.block_until_ready(metrics)

    def run_torch() -> None:
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), batch):
            optimizer.zero_grad(set_to_none=True)
            theirs.loss(rows[order[start : start + batch]]).backward()
            optimizer.step()

    # The products of a step: forward, and backward to weights and inputs.
    widths = [pixels, *hidden, latent]
    flops = 6 * batch * batches * (
        sum(a * b for a, b in zip(widths, widths[1:], strict=False)) * 2 + widths[-2] * latent
    )  # fmt: skip
    a = torch.randn(batch, max(hidden))
    b = torch.randn(max(hidden), pixels)
    products = max(1, flops // (2 * batch * max(hidden) * pixels))

    def run_sgemm() -> None:
        for _ in range(products):
            torch.mm(a, b)

    seconds = interleave({"ours": run_ours, "torch": run_torch, "sgemm": run_sgemm}, rounds)
    sgemm_rate = 2 * batch * max(hidden) * pixels * products / min(seconds["sgemm"])
    row = {
        "what": "training",
        "size": size,
        "steps_a_second": {
            name: {
                "best": round(batches / min(seconds[name]), 1),
                "median": round(batches / statistics.median(seconds[name]), 1),
            }
            for name in ("ours", "torch")
        },
        "times_torch": ratio(seconds, "torch", "ours"),
        "share_of_sgemm": round(flops / min(seconds["ours"]) / sgemm_rate, 3),
    }
    record("vae_speed", row)


def time_likelihood(rounds: int) -> None:
    """Estimates against pythae's `get_nll`, on the same weights' shapes and samples."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig

    pixels, samples, count = 784, 200, 20
    x = draw(count, pixels)
    theirs = PythaeVAE(VAEConfig((1, 28, 28), latent_dim=16, reconstruction_loss="bce")).eval()
    model = VAE((28, 28), latent=16, hidden=(512,))
    params = model.init(jax.random.key(0), x[:1])["params"]
    images = torch.tensor(x.reshape(count, 1, 28, 28))
    key = jax.random.key(1)
    many = jnp.asarray(np.tile(x, (10, 1)))  # the compiled call is timed on more, see the row

    def run_ours() -> None:
        jax.block_until_ready(importance_log_likelihood(model, params, many, key, samples=samples))

    def run_pythae() -> None:
        with torch.no_grad():
            theirs.get_nll(images, n_samples=samples, batch_size=100)

    seconds = interleave({"ours": run_ours, "pythae": run_pythae}, rounds)
    per_example = {
        "ours": [each / len(many) for each in seconds["ours"]],
        "pythae": [each / count for each in seconds["pythae"]],
    }
    row = {
        "what": "likelihood",
        "model": "784-512-16",
        "samples": samples,
        "milliseconds_an_example": {
            name: round(1e3 * min(each), 4) for name, each in per_example.items()
        },
        "times_pythae": ratio(per_example, "pythae", "ours"),
    }
    record("vae_speed", row)


def time_sweep(rounds: int, models: int = 8) -> None:
    """An epoch of several `digits` models at once against one alone."""
    pixels, hidden, latent, batch, batches = SIZES["digits"]
    data = {"x": jnp.asarray(draw(batch * batches, pixels))}
    model = VAE((pixels,), latent=latent, hidden=hidden)

    def epoch_of(setting, data):
        step = gradient_step(
            make_vae_loss(model, beta=setting["beta"]), OPTIMIZER, key=setting["key"]
        )
        return make_epoch_step(step, data, batch_size=batch, key=jax.random.key(2))

    def new_state(key):
        return make_state(model.init(key, data["x"][:1])["params"], OPTIMIZER)

    keys = jax.random.split(jax.random.key(0), models)
    betas = jnp.linspace(0.5, 4.0, models)
    together = jax.jit(
        make_sweep_step(epoch_of, {"beta": betas, "key": keys}, data), donate_argnums=0
    )
    alone = jax.jit(epoch_of({"beta": betas[0], "key": keys[0]}, data), donate_argnums=0)
    states = {"sweep": make_sweep_state(new_state, keys), "one": new_state(keys[0])}

    def runner(name, step):
        def run() -> None:
            states[name], metrics = step(states[name], {"epoch": np.int32(0)})
            jax.block_until_ready(metrics)

        return run

    sides = {"sweep": runner("sweep", together), "one": runner("one", alone)}
    seconds = interleave(sides, rounds)
    row = {"what": "sweep", "models": models, "times_one": ratio(seconds, "sweep", "one")}
    record("vae_speed", row)


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Ratio of the best and of the median seconds."""
    return {
        "best": round(min(seconds[above]) / min(seconds[below]), 2),
        "median": round(statistics.median(seconds[above]) / statistics.median(seconds[below]), 2),
    }


def main() -> None:
    """Measures all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(THREADS)
    time_training("digits", rounds)
    time_training("mnist", rounds)
    time_likelihood(rounds)
    time_sweep(rounds)


if __name__ == "__main__":
    main()
