"""Times one training step of CLIP here and in torch by transformers, one after the other in turn.

python -m experiments.benchmarks.clip_speed   (with torch and transformers installed)

Both start from the same weights, see the same batch and use AdamW at the same rate; their losses
are compared before anything is timed.
"""

import argparse
import os
import statistics
import tempfile
import time

import jax
import numpy as np
import optax
import torch
import transformers

from experiments.benchmarks.record import record
from jaxembed.convert.huggingface import load_clip
from jaxembed.models import make_contrastive_loss
from jaxembed.train import gradient_step, make_state

RATE = 1e-4
PEERS = ("ours", "torch")
SHAPES = {
    "small": {"image": 64, "patch": 8, "width": 256, "layers": 4, "length": 32, "batch": 16},
    "B/32 at 2 layers": {
        "image": 224,
        "patch": 32,
        "width": 768,
        "layers": 2,
        "length": 32,
        "batch": 32,
    },
}


def make_theirs(shape: dict, threads: int):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": shape["width"],
        "intermediate_size": 4 * shape["width"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["width"] // 64,
    }
    text = sizes | {"vocab_size": 8000, "max_position_embeddings": shape["length"]}
    text |= {"bos_token_id": 7998, "eos_token_id": 7999, "pad_token_id": 0}
    vision = sizes | {"image_size": shape["image"], "patch_size": shape["patch"]}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=256)
    return transformers.CLIPModel(config).train()


def measure(name: str, threads: int, rounds: int) -> None:
    shape = SHAPES[name]
    random = np.random.default_rng(0)
    batch, side = shape["batch"], shape["image"]
    images = random.normal(0, 1, (batch, side, side, 3)).astype(np.float32)
    ids = random.integers(1, 7998, (batch, shape["length"])).astype(np.int32)
    ids[:, -1] = 7999
    theirs = make_theirs(shape, threads)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        model, params, _ = load_clip(folder)

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    tokens = torch.from_numpy(ids.astype(np.int64))
    adam = torch.optim.AdamW(theirs.parameters(), RATE, weight_decay=0.0)

    def step_theirs() -> float:
        adam.zero_grad()
        loss = theirs(input_ids=tokens, pixel_values=pixels, return_loss=True).loss
        loss.backward()
        adam.step()
        return loss.item()

    optimizer = optax.adamw(RATE, weight_decay=0.0)
    step = jax.jit(
        gradient_step(make_contrastive_loss(model), optimizer, key=jax.random.key(0)),
        donate_argnums=0,
    )
    lengths = np.full(batch, shape["length"], np.int32)
    fields = {"query_pixels": images, "doc_ids": ids, "doc_lengths": lengths}
    state = make_state(jax.tree.map(jax.numpy.asarray, params), optimizer)

    def step_ours() -> float:
        nonlocal state
        state, metrics = step(state, fields)
        return float(metrics["loss"][0] / metrics["loss"][1])

    losses = [(step_ours(), step_theirs()) for _ in range(3)]  # compiles, and warms up
    difference = max(abs(a - b) for a, b in losses)
    if difference > 1e-2:
        raise ValueError(f"the losses differ: {losses}.")
    # Processor seconds are those of all threads: a busy machine changes them least.
    clocks = {"": time.perf_counter, "cpu_": time.process_time}
    times: dict[str, list[float]] = {f"{clock}{who}": [] for clock in clocks for who in PEERS}
    for _ in range(rounds):
        for who, run in zip(PEERS, (step_ours, step_theirs), strict=True):
            starts = {kind: clock() for kind, clock in clocks.items()}
            run()
            for kind, clock in clocks.items():
                times[f"{kind}{who}"].append(clock() - starts[kind])
    row = {"case": name, "shape": shape, "threads": threads, "rounds": rounds}
    row |= {"losses": losses, "load": round(os.getloadavg()[0], 1)}
    for kind, function in (("min", min), ("median", statistics.median)):
        for clock in clocks:
            ours, other = (function(times[f"{clock}{who}"]) for who in PEERS)
            row |= {f"{clock}{kind}_s": {"ours": round(ours, 4), "torch": round(other, 4)}}
            row[f"{clock}{kind}_speedup"] = round(other / ours, 2)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record("clip_speed", row | {"peers": versions})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    for case in options.cases:
        measure(case, options.threads, options.rounds)
