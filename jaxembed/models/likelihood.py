"""The declared distribution of data given a code: what a decoder's outputs mean."""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from jaxembed.losses import (
    bernoulli_log_likelihood,
    categorical_log_likelihood,
    discretized_logistic_log_likelihood,
    gaussian_log_likelihood,
    multinomial_log_likelihood,
)

LikelihoodName = Literal[
    "bernoulli", "gaussian", "discretized-logistic", "categorical", "multinomial", "mixed"
]
AnyArray = Array | np.ndarray  # on the device or the host
Binarization = Literal["none", "dynamic"]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """How data of one shape are described, fed to an encoder and scored.

    `parameters`, as a decoder makes them, are logits [*batch, size] (bernoulli, multinomial),
    logits [*batch, size, levels] (categorical), a pair of mean and log-variance or log-scale, each
    [*batch, size] (gaussian, discretized-logistic), or that pair of the numeric columns followed by
    the logits of each categorical column (mixed).

    Attributes:
        name: The distribution.
        shape: Shape of an example.
        levels: Values of a pixel (discretized-logistic) or classes (categorical).
        categories: Classes of each of the last columns, for tables of mixed columns; the columns
            before them are numeric.
    """

    name: LikelihoodName
    shape: tuple[int, ...]
    levels: int = 256
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in get_args(LikelihoodName):
            raise ValueError(f"likelihood {self.name!r}; wanted one of {get_args(LikelihoodName)}.")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape is {self.shape}: give positive sizes.")
        if self.levels < 2 or any(classes < 2 for classes in self.categories):
            raise ValueError(
                f"levels is {self.levels} and categories {self.categories}: 2 or more are wanted."
            )
        if (self.name == "mixed") != bool(self.categories):
            raise ValueError(
                f"likelihood {self.name!r} with categories {self.categories}: give the classes of "
                "each categorical column with 'mixed', and none otherwise."
            )
        if self.name == "mixed" and (len(self.shape) > 1 or self.numeric < 0):
            raise ValueError(
                f"shape {self.shape} with {len(self.categories)} categorical columns: give "
                "(columns,), all columns together."
            )

    @property
    def size(self) -> int:
        """Number of values of an example."""
        return math.prod(self.shape)

    @property
    def numeric(self) -> int:
        """Number of numeric columns of a mixed table."""
        return self.size - len(self.categories)

    @property
    def outputs(self) -> int:
        """Number of values that a decoder must make; scales are apart."""
        if self.name == "categorical":
            return self.size * self.levels
        if self.name == "mixed":
            return self.numeric + sum(self.categories)
        return self.size

    @property
    def scales(self) -> int:
        """Number of learned log-scales: one for all pixels, or one a numeric column."""
        if self.name == "mixed":
            return self.numeric
        return int(self.name in ("gaussian", "discretized-logistic"))

    def flatten(self, x: Shaped[AnyArray, "..."]) -> Shaped[Array, "batch size"]:
        """One row an example.

        Raises:
            ValueError: If the examples are neither of `shape` nor rows of as many values.
        """
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[1:] not in (self.shape, (self.size,)):
            raise ValueError(
                f"examples are {x.shape[1:]}, but the model's shape is {self.shape}: give "
                f"[batch, {', '.join(map(str, self.shape))}] or [batch, {self.size}]."
            )
        x = x.reshape(x.shape[0], self.size)
        if self.name == "categorical" and not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"categorical data of {x.dtype}: give whole numbers, such as int32.")
        return x if self.name == "categorical" else x.astype(jnp.float32)

    def inputs(self, x: Shaped[AnyArray, "batch size"]) -> Float[Array, "batch inputs"]:
        """What an encoder sees of flattened examples: classes as indicators."""
        if self.name == "categorical":
            indicators = jax.nn.one_hot(x, self.levels, dtype=jnp.float32)
            return indicators.reshape(x.shape[0], -1)
        if self.name == "mixed":
            classes = x[:, self.numeric :].astype(jnp.int32)
            indicators = [
                jax.nn.one_hot(classes[:, column], count, dtype=jnp.float32)
                for column, count in enumerate(self.categories)
            ]
            return jnp.concatenate([x[:, : self.numeric], *indicators], axis=1)
        return x

    def parameters(
        self, outputs: Float[Array, "*batch outputs"], log_scales: Float[Array, "scales"] | None
    ) -> Any:
        """The distribution's parameters from a decoder's outputs and the learned log-scales.

        A log-scale is half a Gaussian's log-variance.
        """
        if self.name == "categorical":
            return outputs.reshape(*outputs.shape[:-1], self.size, self.levels)
        if self.name == "mixed":
            mean, logits = outputs[..., : self.numeric], outputs[..., self.numeric :]
            ends = [sum(self.categories[:count]) for count in range(1, len(self.categories))]
            log_var = jnp.broadcast_to(2.0 * log_scales, mean.shape)
            return ((mean, log_var), *jnp.split(logits, ends, axis=-1))
        if self.scales:
            factor = 2.0 if self.name == "gaussian" else 1.0
            return outputs, jnp.broadcast_to(factor * log_scales, outputs.shape)
        return outputs

    def log_likelihood(
        self,
        x: Shaped[AnyArray, "batch size"],
        parameters: Any,
        *,
        mask: Bool[Array, "batch"] | None = None,
    ) -> Float[Array, "*samples batch"]:
        """Scores flattened examples, each under the parameters of one or several samples.

        Returns:
            Nats for each sample and example.
        """
        trailing = 2 if self.name == "categorical" else 1
        leading = jax.tree.leaves(parameters)[0].shape[:-trailing]
        x = jnp.broadcast_to(x, (*leading, self.size))
        if mask is not None:
            mask = jnp.broadcast_to(mask, leading)
        if self.name == "bernoulli":
            return bernoulli_log_likelihood(x, parameters, mask=mask)
        if self.name == "gaussian":
            return gaussian_log_likelihood(x, *parameters, mask=mask)
        if self.name == "discretized-logistic":
            return discretized_logistic_log_likelihood(
                x, *parameters, levels=self.levels, mask=mask
            )
        if self.name == "categorical":
            return categorical_log_likelihood(x, parameters, mask=mask)
        if self.name == "multinomial":
            return multinomial_log_likelihood(x, parameters, mask=mask)
        location, *columns = parameters
        total = gaussian_log_likelihood(x[..., : self.numeric], *location, mask=mask)
        classes = x[..., self.numeric :].astype(jnp.int32)
        for column, logits in enumerate(columns):
            chosen = classes[..., column : column + 1]
            total += categorical_log_likelihood(chosen, logits[..., None, :], mask=mask)
        return total

    def expected(self, parameters: Any) -> Float[Array, "*batch size"]:
        """Means; the most likely class of a categorical value; a multinomial's shares.

        The mean of a discretised logistic is that of the logistic cut off at 0 and 1, which differs
        from it by less than 1 / levels^2.
        """
        if self.name == "bernoulli":
            return jax.nn.sigmoid(parameters)
        if self.name == "categorical":
            return jnp.argmax(parameters, axis=-1).astype(jnp.float32)
        if self.name == "discretized-logistic":
            mean, log_scale = parameters  # the integral of P(x > t) over t from 0 to 1
            scale = jnp.exp(log_scale)
            return scale * (jax.nn.softplus(mean / scale) - jax.nn.softplus((mean - 1.0) / scale))
        if self.name == "multinomial":
            return jax.nn.softmax(parameters, axis=-1)
        if self.name == "mixed":
            classes = [jnp.argmax(logits, axis=-1)[..., None] for logits in parameters[1:]]
            numbers = [column.astype(jnp.float32) for column in classes]
            return jnp.concatenate([parameters[0][0], *numbers], axis=-1)
        return parameters[0]

    def draw(self, key: Array, parameters: Any) -> Float[Array, "*batch size"]:
        """Draws data; one item for each multinomial, whose number of draws is no parameter."""
        if self.name == "bernoulli":
            chances = jax.nn.sigmoid(parameters)
            return jax.random.bernoulli(key, chances).astype(jnp.float32)
        if self.name == "gaussian":
            return _draw_gaussian(key, *parameters)
        if self.name == "discretized-logistic":
            mean, log_scale = parameters
            value = mean + jnp.exp(log_scale) * jax.random.logistic(key, mean.shape)
            steps = self.levels - 1
            return jnp.round(jnp.clip(value, 0.0, 1.0) * steps) / steps
        if self.name == "categorical":
            return jax.random.categorical(key, parameters).astype(jnp.float32)
        if self.name == "multinomial":
            item = jax.random.categorical(key, parameters)
            return jax.nn.one_hot(item, self.size, dtype=jnp.float32)
        location, *columns = parameters
        keys = jax.random.split(key, len(columns) + 1)
        values = [_draw_gaussian(keys[0], *location)]
        for column_key, logits in zip(keys[1:], columns, strict=True):
            drawn = jax.random.categorical(column_key, logits)
            values.append(drawn[..., None].astype(jnp.float32))
        return jnp.concatenate(values, axis=-1)


def binarize(
    x: Shaped[AnyArray, "*shape"], key: Array, binarization: Binarization
) -> Shaped[Array, "*shape"]:
    """Draws each pixel anew as 0 or 1, with its intensity as the chance of 1, if "dynamic".

    Args:
        x: Intensities from 0 to 1.
        key: Random key.
        binarization: "none" leaves `x` as it is.

    Returns:
        The data to train on.

    Reference: Salakhutdinov & Murray, 2008, section 5.
    """
    x = jnp.asarray(x)
    if binarization == "none":
        return x
    return (jax.random.uniform(key, x.shape) < x).astype(jnp.float32)


def _draw_gaussian(key: Array, mean: Array, log_var: Array) -> Array:
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
