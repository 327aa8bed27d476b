"""Classification by names alone: an object is of the class whose name's vector is nearest."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# What CLIP's authors found to help most: Radford et al., 2021, section 3.1.4.
PHOTO_TEMPLATES = ("a photo of a {}.", "a bad photo of a {}.", "a drawing of a {}.")
EncodeTexts = Callable[[list[str]], Float[Array | np.ndarray, "texts dim"]]


def class_vectors(
    encode: EncodeTexts, names: Sequence[str], templates: Sequence[str] = ("{}",)
) -> Float[Array, "classes dim"]:
    """Makes a vector of each class from its name in several sentences.

    Args:
        encode: From texts to vectors, such as a dual encoder's text tower.
        names: Of the classes.
        templates: Sentences with one {} where the name goes.

    Returns:
        The mean over sentences of vectors of length 1, itself scaled to length 1.

    Raises:
        ValueError: If there are no names or templates, or a template has no {} or several.

    Reference: Radford et al., 2021, https://arxiv.org/abs/2103.00020, section 3.1.4.
    """
    if not names or not templates:
        raise ValueError(f"{len(names)} names and {len(templates)} templates: give some of both.")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} needs one {{}} for the name.")
    texts = [template.replace("{}", name) for name in names for template in templates]
    vectors = _unit(jnp.asarray(encode(texts))).reshape(len(names), len(templates), -1)
    return _unit(jnp.mean(vectors, axis=1))


def classify(
    vectors: Float[Array | np.ndarray, "objects dim"],
    classes: Float[Array | np.ndarray, "classes dim"],
    k: int = 1,
) -> Int[np.ndarray, "objects k"]:
    """Finds the classes nearest to objects by cosine.

    Args:
        vectors: Of the objects.
        classes: As `class_vectors` makes them.
        k: How many an object.

    Returns:
        Numbers of classes, nearest first, the lower number where two are equal.

    Raises:
        ValueError: If k is not from 1 to the number of classes.
    """
    if not 1 <= k <= len(classes):
        raise ValueError(f"k is {k}: give 1 to {len(classes)}, the number of classes.")
    cosines = _unit(jnp.asarray(vectors)) @ _unit(jnp.asarray(classes)).T
    return np.argsort(-np.asarray(cosines), axis=1, kind="stable")[:, :k].astype(np.int32)


def zero_shot_accuracy(
    vectors: Float[Array | np.ndarray, "objects dim"],
    classes: Float[Array | np.ndarray, "classes dim"],
    labels: Int[Array | np.ndarray, "objects"],
    k: int = 1,
) -> float:
    """Computes the share of objects whose class is among the k nearest; as `classify`."""
    found = classify(vectors, classes, k)
    return float(np.mean(np.any(found == np.asarray(labels)[:, None], axis=1)))


def _unit(vectors: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
    vectors = vectors.astype(jnp.float32)
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squares, 1e-12))
