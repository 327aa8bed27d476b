"""Log-likelihood of VAEs on images binarised at .5, beside pythae's of the same shape.

python -m experiments.benchmarks.vae_quality --data PATH [--epochs 10] [--systems vae pythae iwae]

PATH is a folder with the idx files of MNIST or Fashion-MNIST. All have 784-400-20 units, batches of
128, Adam at 1e-3 and the same epochs; pythae's weights are judged by the same estimator as ours.
Needs torch and pythae for `pythae`.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.record import record
from jaxembed import train_recipe
from jaxembed.data import ImageSet, load_images
from jaxembed.metrics import importance_log_likelihood
from jaxembed.models import VAE, VariationalBound
from jaxembed.recipe import CodeEvaluation, Recipe
from jaxembed.train import Adam

HIDDEN, LATENT, BATCH, LR = 400, 20, 128, 1e-3


def train_ours(data: ImageSet, epochs: int, seed: int, loss: VariationalBound) -> Any:
    """Trains a recipe and returns the parameters."""
    recipe = Recipe(
        model=VAE(shape=(), latent=LATENT, hidden=(HIDDEN,)),
        data=data,
        loss=loss,
        optim=Adam(lr=LR, batch_size=BATCH),
        evaluation=CodeEvaluation(samples=1, most=100),
        epochs=epochs,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        return train_recipe(recipe, Path(folder) / "run", checkpoint_seconds=1e9).params


def train_pythae(pixels: np.ndarray, epochs: int, seed: int) -> Any:
    """Trains pythae's model and returns its weights as our parameters."""
    import torch
    from pythae.models import VAE as PythaeVAE  # noqa: N811
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(784, HIDDEN)
            self.mean = torch.nn.Linear(HIDDEN, LATENT)
            self.log_var = torch.nn.Linear(HIDDEN, LATENT)

        def forward(self, x):
            hidden = torch.relu(self.hidden(x.reshape(len(x), -1)))
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_var(hidden))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(LATENT, HIDDEN)
            self.pixels = torch.nn.Linear(HIDDEN, 784)

        def forward(self, z):
            pixels = torch.sigmoid(self.pixels(torch.relu(self.hidden(z))))
            return ModelOutput(reconstruction=pixels.reshape(-1, 1, 28, 28))

    torch.manual_seed(seed)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    rows = torch.tensor(pixels).reshape(-1, 1, 28, 28)
    for _ in range(epochs):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), BATCH):
            optimizer.zero_grad()
            model({"data": rows[order[start : start + BATCH]]}).loss.backward()
            optimizer.step()

    def take(*layers):
        kernels = [layer.weight.detach().numpy().T for layer in layers]
        biases = [layer.bias.detach().numpy() for layer in layers]
        return {"kernel": np.concatenate(kernels, 1), "bias": np.concatenate(biases)}

    encoder, decoder = model.encoder, model.decoder
    stacks = {
        "encoder": (take(encoder.hidden), take(encoder.mean, encoder.log_var)),
        "decoder": (take(decoder.hidden), take(decoder.pixels)),
    }
    return {
        name: {"DenseStack_0": {"Dense_0": first, "Dense_1": second}}
        for name, (first, second) in stacks.items()
    }


def main() -> None:
    """Trains each system and records one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--systems", nargs="+", default=["vae", "pythae", "iwae"])
    options = parser.parse_args()
    data = ImageSet(options.data, binarization="threshold")
    train, test = load_images(data)
    model = VAE(shape=(28, 28), latent=LATENT, hidden=(HIDDEN,))
    for system in options.systems:
        started = time.monotonic()
        if system == "pythae":
            params = train_pythae(train.pixels, options.epochs, options.seed)
        else:
            loss = VariationalBound("iwae", samples=50) if system == "iwae" else VariationalBound()
            params = train_ours(data, options.epochs, options.seed, loss)
        seconds = time.monotonic() - started
        values, errors = importance_log_likelihood(
            model, params, test.pixels, jax.random.key(0), samples=options.samples
        )
        record(
            "vae_quality",
            {
                "system": system,
                "epochs": options.epochs,
                "seed": options.seed,
                "samples": options.samples,
                "log_likelihood": round(float(values.mean()), 3),
                "standard_error": round(float(np.sqrt(np.square(errors).sum())) / len(values), 4),
                "images": len(test),
                "training_seconds": round(seconds),
            },
        )


if __name__ == "__main__":
    main()
