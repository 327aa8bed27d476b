"""Records the probes of finished runs of experiments.augmented_pairs.

python -m experiments.benchmarks.augmented_pairs_quality runs/views-1 runs/views-2 runs/views-3
"""

import sys

from experiments.benchmarks.record import record
from jaxembed.run import load_run


def main(paths: list[str]) -> None:
    for path in paths:
        run = load_run(path)
        about = {"data": run.recipe.data.source, "epochs": run.recipe.epochs}
        values = {name: round(metric.value, 4) for name, metric in run.results.items()}
        record("augmented_pairs_quality", about | {"seed": run.recipe.seed} | values)


if __name__ == "__main__":
    main(sys.argv[1:])
