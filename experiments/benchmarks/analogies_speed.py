"""Seconds to answer all 19,544 analogy questions among 30,000 words, compilation included.

python -m experiments.benchmarks.analogies_speed --analogies FILE

The vectors are random and every question's words are among them, so that no question is skipped.
"""

import argparse
import time

import numpy as np

from experiments.benchmarks.record import record
from jaxembed.metrics.words import evaluate_analogies, read_analogies

VOCAB, DIM = 30_000, 100


def main() -> None:
    """Times the first and the second evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--analogies", required=True)
    sections = read_analogies(parser.parse_args().analogies)
    asked = {
        word.upper() for section in sections for question in section.questions for word in question
    }
    keys = sorted(asked) + [f"word {number}" for number in range(VOCAB - len(asked))]
    matrix = np.random.default_rng(0).normal(size=(VOCAB, DIM)).astype(np.float32)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        scores = evaluate_analogies(keys, matrix, sections, restrict_vocab=VOCAB)
        seconds.append(round(time.perf_counter() - started, 2))
    row = {"questions": scores.known, "first_seconds": seconds[0], "second_seconds": seconds[1]}
    record("analogies_speed", row)


if __name__ == "__main__":
    main()
