"""What codes of 8 numbers keep of the digits: PCA, a denoising autoencoder and a VAE.

python -m experiments.benchmarks.codes_compared [--seeds 1 2 3]
"""

import argparse
import tempfile
from pathlib import Path

import jax

from experiments import autoencoder, vae
from experiments.benchmarks.record import record
from jaxembed import train_recipe
from jaxembed.tasks.curves import read_metrics


def main() -> None:
    """Trains both models with each seed and records one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    for seed in parser.parse_args().seeds:
        for name in ("autoencoder", "vae"):
            with tempfile.TemporaryDirectory() as folder:
                workdir = Path(folder) / "run"
                if name == "autoencoder":
                    recipe = autoencoder.make_recipe(autoencoder.Config(workdir, seed=seed))
                else:
                    config = vae.Config(
                        workdir,
                        seed=seed,
                        likelihood="discretized-logistic",
                        binarization="none",
                    )
                    recipe = vae.make_recipe(config).override({"model.levels": "17"})
                run = train_recipe(recipe, workdir, checkpoint_seconds=1e9)
                seconds = read_metrics(workdir)["loss"]["seconds"].sum()
                row = {"model": name, "seed": seed, "training_seconds": round(float(seconds), 1)}
                row["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(run.params))
                figures = {key: round(metric.value, 4) for key, metric in run.results.items()}
            record("codes_compared", row | figures)


if __name__ == "__main__":
    main()
