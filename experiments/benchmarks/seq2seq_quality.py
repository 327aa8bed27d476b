"""What finished runs of experiments.seq2seq reached, as rows: their results, settings and time.

python -m experiments.seq2seq --workdir runs/cmudict
python -m experiments.benchmarks.seq2seq_quality runs/cmudict --note "beside other work"

The seconds are those of training steps alone, on however many cores the run had.
"""

import argparse

from experiments.benchmarks.record import record
from jaxembed.recipe import flatten
from jaxembed.run import load_run
from jaxembed.tasks.curves import read_metrics

SHOWN = ("model", "data.max_vocab", "optim.lr", "optim.batch_size", "loss.label_smoothing")


def main() -> None:
    """Records each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--note", help="what else the machine did, for example")
    options = parser.parse_args()
    for path in options.runs:
        run = load_run(path)
        settings = flatten(run.sized.to_json())
        losses = read_metrics(run.path)["loss"]
        record(
            "seq2seq_quality",
            {
                "data": run.recipe.data.source.rstrip("/").rpartition("/")[2],
                "languages": run.recipe.data.languages,
                "pairs": run.resolved["count"],
                "settings": {
                    name: value for name, value in settings.items() if name.startswith(SHOWN)
                },
                "epochs": run.recipe.epochs,
                "seed": run.recipe.seed,
                "training_seconds": round(float(losses["seconds"].sum()), 1),
                "results": {name: round(metric.value, 4) for name, metric in run.results.items()},
                "tested": [m.count for n, m in run.results.items() if n != "loss"][0],
                "note": options.note,
            },
        )


if __name__ == "__main__":
    main()
