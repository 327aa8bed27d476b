"""Likelihood estimation, training and a sweep of VAEs, against pythae and torch, interleaved.

python -m experiments.benchmarks.vae_speed [--rounds 100] [--what training likelihood sweep]

Needs torch and pythae. Every ratio is one of the best and one of the median seconds over rounds, in
each of which both sides run one after the other; `times_cpu` is that of the best CPU seconds, which
other processes disturb less. JAX has a CPU device a core: training uses one of them, likelihoods
and sweeps a mesh of all; `sweep_on_one_device` and `ours_on_one_device` use one.
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
    make_mesh,
    make_state,
    make_sweep_state,
    make_sweep_step,
    put_tree,
)

THREADS = 2
jax.config.update("jax_num_cpu_devices", THREADS)
OPTIMIZER = optax.adam(1e-3)
# Pixels, hidden layers, latent units, batch, batches of an epoch.
SIZES = {"digits": (64, (128, 64), 8, 128, 11), "mnist": (784, (400,), 20, 128, 20)}

# Pixels, hidden layers, latent units of the models that likelihoods and sweeps are timed on.
MODELS = {
    "small": (64, (32,), 2),
    "digits": (64, (128, 64), 8),
    "mnist": (784, (512,), 16),
}
SWEEPS = [("small", 32), ("small", 128), ("digits", 32), ("digits", 128)]


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


def interleave(
    sides: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each side in each round, by the clock and of the CPU, after one for warmth."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
                cpu_seconds[name].append(time.process_time() - cpu_started)
    return seconds, cpu_seconds


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

    multiply = jax.jit(jnp.matmul)
    ours_a, ours_b = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())

    def run_our_sgemm() -> None:
        for _ in range(products):
            multiply(ours_a, ours_b).block_until_ready()

    sides = {"ours": run_ours, "torch": run_torch, "sgemm": run_sgemm, "our_sgemm": run_our_sgemm}
    seconds, _ = interleave(sides, rounds)
    fastest = min(seconds["sgemm"] + seconds["our_sgemm"])
    sgemm_rate = 2 * batch * max(hidden) * pixels * products / fastest
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
        "gigaflops": {
            "ours": round(flops / min(seconds["ours"]) / 1e9, 1),
            "sgemm": round(sgemm_rate / 1e9, 1),
        },
        "share_of_sgemm": round(flops / min(seconds["ours"]) / sgemm_rate, 3),
    }
    record("vae_speed", row)


def make_pythae(pixels: int, hidden: tuple[int, ...], latent: int) -> Any:
    """Pythae's VAE with the same layers as ours."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    stacks = TorchVAE(pixels, hidden, latent)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.stack = stacks.encoder

        def forward(self, x):
            mean, log_var = self.stack(x.reshape(len(x), -1)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.stack = stacks.decoder

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.stack(z)))

    config = VAEConfig((pixels,), latent_dim=latent, reconstruction_loss="bce")
    return PythaeVAE(config, encoder=Encoder(), decoder=Decoder()).eval()


def time_likelihood(name: str, asked: int | None, rounds: int) -> None:
    """Estimates of 1,000 examples, 100 of the large model, against pythae's `get_nll`.

    It takes its own batches of 100 samples. `asked` None is its default, one sample, for which it
    evaluates 100 all the same.
    """
    pixels, hidden, latent = MODELS[name]
    count, theirs_count = 1000 if pixels < 784 else 100, 10
    samples = asked or 100
    x = draw(count, pixels)
    theirs = make_pythae(pixels, hidden, latent)
    model = VAE((pixels,), latent=latent, hidden=hidden)
    params = model.init(jax.random.key(0), x[:1])["params"]
    rows, images = jnp.asarray(x), torch.tensor(x[:theirs_count])
    key, mesh = jax.random.key(1), make_mesh()

    def runner(samples, mesh):
        def run() -> None:
            jax.block_until_ready(
                importance_log_likelihood(model, params, rows, key, samples=samples, mesh=mesh)
            )

        return run

    def run_pythae() -> None:
        with torch.no_grad():
            theirs.get_nll(images, **({} if asked is None else {"n_samples": asked}))

    sides = {
        "ours": runner(samples, mesh), "ours_on_one_device": runner(samples, None),
        "pythae": run_pythae,
    }  # fmt: skip
    if asked is None:
        sides["ours_at_one_sample"] = runner(1, mesh)
    seconds, cpu_seconds = (
        {
            side: [each / (theirs_count if side == "pythae" else count) for each in taken]
            for side, taken in times.items()
        }
        for times in interleave(sides, rounds)
    )
    row = {
        "what": "likelihood",
        "model": "-".join(map(str, (pixels, *hidden, latent))),
        "samples_asked": asked or "default",
        "samples_evaluated": samples,
        "milliseconds_an_example": {
            side: round(1e3 * min(each), 4) for side, each in seconds.items()
        },
        "times_pythae": {
            side: ratio(seconds, "pythae", side) for side in sides if side != "pythae"
        },
        "times_cpu": round(min(cpu_seconds["pythae"]) / min(cpu_seconds["ours"]), 2),
    }
    record("vae_speed", row)


def time_sweep(name: str, batch: int, rounds: int, models: int = 8) -> None:
    """An epoch of several `digits` models at once against one alone."""
    pixels, hidden, latent = MODELS[name]
    data = {"x": jnp.asarray(draw(1408, pixels))}
    model = VAE((pixels,), latent=latent, hidden=hidden)
    mesh = make_mesh()

    def epoch_of(setting, data):
        step = gradient_step(
            make_vae_loss(model, beta=setting["beta"]), OPTIMIZER, key=setting["key"]
        )
        return make_epoch_step(step, data, batch_size=batch, key=jax.random.key(2))

    def new_state(key):
        return make_state(model.init(key, data["x"][:1])["params"], OPTIMIZER)

    keys = jax.random.split(jax.random.key(0), models)
    settings = {"beta": jnp.linspace(0.5, 4.0, models), "key": keys}
    first = jax.tree.map(lambda leaf: leaf[0], settings)

    def runner(step, state):
        # The arrays that a step holds lie where `train` would put them.
        arrays, structure = jax.tree.flatten(step)
        if isinstance(jax.tree.leaves(state.params)[0].sharding, jax.sharding.NamedSharding):
            arrays = put_tree(mesh, arrays)
        call = jax.jit(
            lambda arrays, state, batch: jax.tree.unflatten(structure, arrays)(state, batch),
            donate_argnums=1,
        )
        held = [state]

        def run() -> None:
            held[0], metrics = call(arrays, held[0], {"epoch": np.int32(0)})
            jax.block_until_ready(metrics)

        return run

    sides = {
        "sweep": runner(
            make_sweep_step(epoch_of, settings, data, mesh=mesh),
            make_sweep_state(new_state, keys, mesh=mesh),
        ),
        "sweep_on_one_device": runner(
            make_sweep_step(epoch_of, settings, data), make_sweep_state(new_state, keys)
        ),
        "one": runner(epoch_of(first, data), new_state(keys[0])),
    }
    seconds, cpu_seconds = interleave(sides, rounds)
    row = {
        "what": "sweep",
        "models": models,
        "model": "-".join(map(str, (pixels, *hidden, latent))),
        "batch": batch,
        "milliseconds_an_epoch": {
            side: round(1e3 * min(taken), 2) for side, taken in seconds.items()
        },
        "times_one": {side: ratio(seconds, side, "one") for side in sides if side != "one"},
        "times_cpu": round(min(cpu_seconds["sweep"]) / min(cpu_seconds["one"]), 2),
    }
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
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--what", nargs="+", default=["training", "likelihood", "sweep"])
    options = parser.parse_args()
    rounds = options.rounds
    torch.set_num_threads(THREADS)
    if "training" in options.what:
        time_training("digits", rounds)
        time_training("mnist", rounds)
    if "likelihood" in options.what:
        for name in MODELS:
            for asked in (None, 200):
                # Ten rounds of the large model take as long as a hundred of the others.
                count = rounds if MODELS[name][0] < 784 else max(1, rounds // 10)
                time_likelihood(name, asked, count)
    if "sweep" in options.what:
        for name, batch in SWEEPS:
            time_sweep(name, batch, rounds)


if __name__ == "__main__":
    main()
