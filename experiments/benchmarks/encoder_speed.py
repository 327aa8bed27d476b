"""Sentences a second of all-MiniLM-L6-v2 beside sentence-transformers, interleaved in one run.

python -m experiments.benchmarks.encoder_speed --data PATH/sts [--rounds 5] [--cold-rounds 3]

1,000 sentences of STS-B, SICK (short) and TREC-QA (long), float32, as many threads as there are
cores. "Warm" is a second call in one process. "Cold" is a fresh process from its start to the
last vector: with an empty folder of compiled programs, then with the folder that this left.
0 rounds leave a part out.
Each round runs every system once; ratios are per round. Matmul is XLA's own product of the
feed-forward network's shape, timed in the same rounds.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks.minilm import find_minilm, read_sentences
from experiments.benchmarks.record import record

COUNT = 1000
OURS = """
import sys
import numpy as np
from jaxembed import load_encoder
sentences = open(sys.argv[2], encoding="utf-8").read().split("\\n")
np.save(sys.argv[3], load_encoder(sys.argv[1]).encode(sentences))
"""
THEIRS = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
from sentence_transformers import SentenceTransformer
sentences = open(sys.argv[2], encoding="utf-8").read().split("\\n")
np.save(sys.argv[3], SentenceTransformer(sys.argv[1], device="cpu").encode(sentences))
"""


def choose_sentences(folder: str) -> list[str]:
    """Half short ones, half longer ones, in a fixed random order."""
    random = np.random.default_rng(0)
    short = read_sentences(folder)
    with open(Path(folder) / "trecqa-wang" / "train.csv", encoding="utf-8", newline="") as file:
        long = sorted({row["atext"] for row in csv.DictReader(file)})
    short = [short[i] for i in random.permutation(len(short))[: COUNT // 2]]
    chosen = short + [long[i] for i in random.permutation(len(long))[: COUNT - len(short)]]
    return [" ".join(chosen[i].split()) for i in random.permutation(COUNT)]


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run_cold(program: str, text: str, out: str, cache: str) -> float:
    """A fresh process, from its start to its end."""
    command = [sys.executable, "-c", program, str(find_minilm()), text, out]
    environment = os.environ | {"JAXEMBED_CACHE": cache}
    return seconds(lambda: subprocess.run(command, check=True, env=environment, stderr=-3))


def make_matmul():
    """XLA's product of a batch with a feed-forward kernel, and its FLOPs."""
    import jax

    a, b = np.ones((1024, 384), np.float32), np.ones((384, 1536), np.float32)
    multiply, a, b = jax.jit(lambda a, b: a @ b), jax.device_put(a), jax.device_put(b)
    multiply(a, b).block_until_ready()
    times = 40

    def run():
        for _ in range(times):
            multiply(a, b).block_until_ready()

    return run, times * 2.0 * 1024 * 384 * 1536


def count_flops(
    lengths: np.ndarray, width: int = 384, hidden: int = 1536, layers: int = 6
) -> float:
    """Of the products alone, without padding."""
    dense = 2 * (4 * width**2 + 2 * width * hidden) * lengths
    return float(layers * np.sum(dense + 4 * width * lengths**2))


def measure_warm(sentences: list[str], rounds: int) -> dict:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer

    import jaxembed.encoder
    from jaxembed.models.packed import sentence_vectors

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ours = jaxembed.encoder.load_encoder(find_minilm())
    theirs = SentenceTransformer(str(find_minilm()), device="cpu")
    difference = np.abs(ours.encode(sentences) - theirs.encode(sentences)).max()
    matmul, matmul_flops = make_matmul()
    lengths = np.array([len(one) for one in ours.tokenizer.encode(sentences)])
    packed = list(ours._pack(ours._tokenize(sentences), 16))
    computed = sum(batch.ids.size for batch in packed)
    times = {"ours": [], "theirs": [], "matmul": []}
    work = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, system in (("ours", ours), ("theirs", theirs)):
            started = time.process_time()
            times[name].append(seconds(lambda system=system: system.encode(sentences)))
            work[name].append(time.process_time() - started)
        times["matmul"].append(seconds(matmul))
    flops = count_flops(lengths)
    shares = [
        flops / mine / (matmul_flops / product)
        for mine, product in zip(times["ours"], times["matmul"], strict=True)
    ]
    return {
        "kind": "warm",
        "sentences": len(sentences),
        "tokens": int(lengths.sum()),
        "padding": round(1 - lengths.sum() / computed, 4),
        "compiles": sentence_vectors._cache_size(),
        "max_difference": float(difference),
        "gflops_a_second": round(flops / statistics.median(times["ours"]) / 1e9, 1),
        "share_of_matmul": round(statistics.median(shares), 3),
        **summary(times["ours"], times["theirs"]),
        # Says more than the clock where the machine has other work.
        "processor_seconds": {name: round(statistics.median(w), 2) for name, w in work.items()},
    }


def summary(ours: list[float], theirs: list[float]) -> dict:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours_seconds": [round(x, 3) for x in ours],
        "theirs_seconds": [round(x, 3) for x in theirs],
        "ratio_min": round(min(ratios), 2),
        "ratio_median": round(statistics.median(ratios), 2),
    }


def measure_cold(sentences: list[str], rounds: int) -> list[dict]:
    times = {"theirs": [], "empty": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        text, out = f"{folder}/sentences.txt", f"{folder}/out.npy"
        Path(text).write_text("\n".join(sentences), encoding="utf-8")
        for number in range(rounds):
            cache = f"{folder}/cache-{number}"
            times["empty"].append(run_cold(OURS, text, out, cache))
            times["theirs"].append(run_cold(THEIRS, text, out, cache))
            times["kept"].append(run_cold(OURS, text, out, cache))
    return [
        {"kind": f"cold, {name} cache"} | summary(times[name], times["theirs"])
        for name in ("empty", "kept")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, metavar="PATH/sts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    options = parser.parse_args()
    sentences = choose_sentences(options.data)
    if options.cold_rounds:
        for row in measure_cold(sentences, options.cold_rounds):
            record("encoder_speed", row)
    if options.rounds:
        record("encoder_speed", measure_warm(sentences, options.rounds))


if __name__ == "__main__":
    main()
