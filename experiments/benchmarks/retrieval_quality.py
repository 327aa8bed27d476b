"""Records what finished runs of experiments.clip and experiments.two_tower retrieve.

python -m experiments.benchmarks.retrieval_quality runs/clip-1 runs/clip-2 runs/clip-3 runs/trecqa

Baselines on the same tests stand in results/retrieval_baselines.jsonl.
"""

import pathlib
import sys

from experiments.benchmarks.record import record
from jaxembed.run import load_run


def main(paths: list[str]) -> None:
    for path in paths:
        run = load_run(path)
        recipe, source = run.recipe, run.recipe.data.source
        towers = [type(tower).__name__ for tower in (recipe.model.query, recipe.model.doc) if tower]
        about = {
            "data": f"PATH/{pathlib.Path(source).name}" if "/" in source else source,
            "towers": towers,
            "start": recipe.start and "/".join(pathlib.Path(recipe.start).parts[-2:]),
            "loss": recipe.loss.kind,
            "hard_negatives": recipe.loss.hard_negatives,
            "lr": recipe.optim.lr,
            "epochs": recipe.epochs,
            "seed": recipe.seed,
        }
        values = {name: round(metric.value, 4) for name, metric in run.results.items()}
        record("retrieval_quality", about | values)


if __name__ == "__main__":
    main(sys.argv[1:])
