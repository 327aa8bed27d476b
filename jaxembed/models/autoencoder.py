"""Autoencoders of vectors, images and tables: encoder, decoder, `AE` and its loss."""

import dataclasses
import math
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from jaxembed.models.likelihood import AnyArray, Binarization, Likelihood, LikelihoodName, binarize
from jaxembed.nn import Activation, ConvolutionalDecoder, ConvolutionalEncoder, DenseStack

Architecture = Literal["dense", "conv"]
Corruption = Literal["none", "gaussian", "masking"]
Metrics = dict[str, tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """The loss of an autoencoder, see `make_autoencoder_loss`.

    Attributes:
        corruption: What is done to the encoder's inputs; the target stays clean.
        corruption_rate: Standard deviation of the noise, or the share of values set to 0.
        sparsity: Weight of the sum of the code's absolute values, in nats a unit.
    """

    corruption: Corruption = "none"
    corruption_rate: float = 0.0
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        limit = 1.0 if self.corruption == "masking" else math.inf
        if not 0.0 <= self.corruption_rate < limit:
            raise ValueError(
                f"corruption_rate is {self.corruption_rate}: give 0 or more, below {limit}."
            )
        if not self.sparsity >= 0.0:
            raise ValueError(f"sparsity is {self.sparsity}: give 0 or more.")


class Encoder(nn.Module):
    """From what a `Likelihood` lets an encoder see to a vector.

    Attributes:
        likelihood: Describes the data.
        hidden: Widths of dense layers, or channels of convolutions.
        outputs: Length of the vector.
        architecture: "conv" is for examples of shape (height, width) or (height, width, channels).
        activation: What stands between layers.
        dtype: What products are computed in.
    """

    likelihood: Likelihood
    hidden: tuple[int, ...]
    outputs: int
    architecture: Architecture = "dense"
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Encodes rows of inputs."""
        if _is_dense(self.architecture, self.likelihood.shape, self.hidden):
            stack = DenseStack(self.hidden, self.outputs, self.activation, self.dtype)
            return stack(inputs)
        height, width = self.likelihood.shape[:2]
        images = inputs.reshape(inputs.shape[0], height, width, -1)
        return ConvolutionalEncoder(self.hidden, self.outputs, self.activation, self.dtype)(images)


class Decoder(nn.Module):
    """From a code to the parameters of a `Likelihood`.

    Attributes:
        likelihood: Describes the data.
        hidden: As those of the encoder, from the data inwards.
        architecture: As that of the encoder.
        activation: What stands between layers.
        dtype: What products are computed in.
    """

    likelihood: Likelihood
    hidden: tuple[int, ...]
    architecture: Architecture = "dense"
    activation: Activation = "relu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(self, codes: Float[Array, "*batch dim"]) -> Any:
        """Decodes codes with any leading axes."""
        likelihood = self.likelihood
        if _is_dense(self.architecture, likelihood.shape, self.hidden):
            stack = DenseStack(self.hidden[::-1], likelihood.outputs, self.activation, self.dtype)
            outputs = stack(codes)
        else:
            height, width = likelihood.shape[:2]
            channels = likelihood.outputs // (height * width)
            decode = ConvolutionalDecoder(
                height, width, self.hidden, channels, self.activation, self.dtype
            )
            images = decode(codes.reshape(-1, codes.shape[-1]))
            outputs = images.reshape(*codes.shape[:-1], likelihood.outputs)
        log_scales = None
        if likelihood.scales:
            log_scales = self.param("log_scales", nn.initializers.zeros, (likelihood.scales,))
        return likelihood.parameters(outputs, log_scales)


class Codec(nn.Module):
    """What `AE` and `VAE` share: the settings, the declared likelihood and the decoder.

    Attributes:
        shape: Shape of an example: (dim,), (height, width), (height, width, channels), or
            (columns,) for a table.
        latent: Length of the code.
        hidden: Widths of the encoder's dense layers, or channels of its convolutions; the decoder
            has them in reverse. Empty for linear maps.
        likelihood: The declared distribution of the data.
        architecture: Of encoder and decoder.
        activation: What stands between layers.
        levels: Values of a pixel (discretized-logistic) or classes (categorical).
        categories: For "mixed" tables: classes of each of the last columns.
        dtype: What products are computed in.
    """

    shape: tuple[int, ...]
    latent: int = 8
    hidden: tuple[int, ...] = (128, 64)
    likelihood: LikelihoodName = "gaussian"
    architecture: Architecture = "dense"
    activation: Activation = "relu"
    levels: int = 256
    categories: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"

    def setup(self) -> None:
        """Makes the submodules."""
        if self.latent < 1 or min(self.hidden, default=1) < 1:
            raise ValueError(
                f"latent is {self.latent}, hidden {self.hidden}: give positive numbers of units."
            )
        self.distribution = Likelihood(self.likelihood, self.shape, self.levels, self.categories)
        layers = (self.architecture, self.activation, self.dtype)
        self.encoder = Encoder(self.distribution, self.hidden, self.statistics, *layers)
        self.decoder = Decoder(self.distribution, self.hidden, *layers)

    @property
    def statistics(self) -> int:
        """Number of the encoder's outputs."""
        return self.latent

    def inputs(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch inputs"]:
        """What the encoder sees of each example."""
        return self.distribution.inputs(self.distribution.flatten(x))

    def decode(self, z: Float[AnyArray, "*batch latent"]) -> Any:
        """The likelihood's parameters, see `Likelihood`."""
        return self.decoder(jnp.asarray(z))

    def log_likelihood(
        self,
        x: Shaped[AnyArray, "batch ..."],
        z: Float[AnyArray, "*batch latent"],
    ) -> Float[Array, "*batch"]:
        """Nats of each example at codes [batch, latent] or [samples, batch, latent]."""
        return self.distribution.log_likelihood(self.distribution.flatten(x), self.decode(z))

    def expected(self, z: Float[AnyArray, "*batch latent"]) -> Float[Array, "..."]:
        """The expected examples at codes, of the model's shape."""
        return self.distribution.expected(self.decode(z)).reshape(*z.shape[:-1], *self.shape)


class AE(Codec):
    """An autoencoder: the code of an example is its embedding.

    Without hidden layers and with a Gaussian likelihood it finds the subspace of principal
    component analysis.
    """

    def __call__(self, x: Shaped[AnyArray, "batch ..."]) -> Any:
        """The parameters of the likelihood at the codes of `x`."""
        return self.decode(self.encode(x))

    def encode(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch latent"]:
        """The code of each example."""
        return self.encoder(self.inputs(x))

    def encode_inputs(self, inputs: Float[Array, "batch inputs"]) -> Float[Array, "batch latent"]:
        """The code of inputs that may have been corrupted."""
        return self.encoder(inputs)

    def reconstruct(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch ..."]:
        """The expected examples at the codes of `x`, of the model's shape."""
        return self.expected(self.encode(x))

    def reconstruction_error(self, x: Shaped[AnyArray, "batch ..."]) -> Float[Array, "batch"]:
        """Negative log-likelihood of each example at its own code, in nats."""
        return -self.log_likelihood(x, self.encode(x))


def make_autoencoder_loss(
    model: AE,
    *,
    corruption: Corruption = "none",
    corruption_rate: float = 0.0,
    sparsity: float | Float[Array, ""] = 0.0,
    binarization: Binarization = "none",
):
    """Makes the loss of an autoencoder: plain, denoising or sparse.

    Args:
        model: The autoencoder.
        corruption: What is done to the encoder's inputs; the target stays clean. "gaussian" adds
            noise, "masking" sets values to 0.
        corruption_rate: Standard deviation of that noise, or the share of values set to 0.
        sparsity: Weight of the sum of the code's absolute values, in nats a unit.
        binarization: "dynamic" draws pixels anew each time.

    Returns:
        A LossFn `(params, batch, key) -> (loss, metrics)` over batches with `x` and, where rows are
        padding, `mask`. The loss is the mean negative log-likelihood, in nats, plus the penalty.

    Raises:
        ValueError: If a setting is unknown or out of range.

    Reference: Vincent et al., 2008, Extracting and composing robust features with denoising
    autoencoders, section 2.3.
    """
    if corruption not in get_args(Corruption):
        raise ValueError(f"corruption {corruption!r}; wanted one of {get_args(Corruption)}.")
    limit = 1.0 if corruption == "masking" else math.inf
    if not 0.0 <= corruption_rate < limit:
        raise ValueError(f"corruption_rate is {corruption_rate}: give 0 or more, below {limit}.")

    def loss_fn(
        params: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        binarize_key, corrupt_key = jax.random.split(key)
        variables = {"params": params}
        x = binarize(batch["x"], binarize_key, binarization)
        inputs = model.apply(variables, x, method="inputs")
        inputs = _corrupt(inputs, corrupt_key, corruption, corruption_rate)
        codes = model.apply(variables, inputs, method="encode_inputs")
        log_likelihood = model.apply(variables, x, codes, method="log_likelihood")
        penalty = sparsity * jnp.sum(jnp.abs(codes), axis=-1)
        return mean_loss(
            penalty - log_likelihood,
            {"log_likelihood": log_likelihood},
            batch.get("mask"),
        )

    return loss_fn


def mean_loss(
    losses: Float[Array, "batch"],
    others: dict[str, Float[Array, "batch"]],
    mask: Bool[Array, "batch"] | None,
) -> tuple[Float[Array, ""], Metrics]:
    """Averages over the rows that are no padding, of all devices together.

    Args:
        losses: Of each row.
        others: Further quantities of each row.
        mask: False marks padding.

    Returns:
        The mean loss, and (total, count) of it and of the others.
    """
    kept = jnp.ones(losses.shape, bool) if mask is None else mask
    count = jnp.sum(kept).astype(jnp.float32)
    totals = {
        name: (jnp.sum(jnp.where(kept, values, 0.0)), count)
        for name, values in {"loss": losses, **others}.items()
    }
    return totals["loss"][0] / jnp.maximum(count, 1.0), totals


def _corrupt(inputs: Array, key: Array, corruption: Corruption, rate: float) -> Array:
    """Inputs with noise, or with some values set to 0."""
    if corruption == "none":
        return inputs
    if corruption == "gaussian":
        return inputs + rate * jax.random.normal(key, inputs.shape)
    return jnp.where(jax.random.uniform(key, inputs.shape) < rate, 0.0, inputs)


def _is_dense(architecture: Architecture, shape: tuple[int, ...], hidden: tuple[int, ...]) -> bool:
    """Whether layers are dense; complains about what neither is nor can be convolutional."""
    if architecture not in get_args(Architecture):
        raise ValueError(f"architecture {architecture!r}; wanted one of {get_args(Architecture)}.")
    if architecture == "conv" and (len(shape) not in (2, 3) or not hidden):
        raise ValueError(
            f"architecture 'conv' with shape {shape} and hidden {hidden}: give (height, width) or "
            "(height, width, channels), and channels of one convolution or more."
        )
    return architecture == "dense"
