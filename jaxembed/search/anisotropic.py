"""Score-aware product quantization: errors along a vector weigh more than errors across it.

The inner product with a query that is near a vector changes by the part of the error that is
parallel to the vector, so codes are chosen that keep this part small.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from jaxembed.search.codebooks import TRAINING_SAMPLE, Codebooks, encode, split_parts
from jaxembed.search.kmeans import map_rows

SWEEPS = 3
ROWS_AT_ONCE = 4096


def parallel_weight(dim: int, threshold: float) -> float:
    """How much more the parallel part of an error weighs than the rest.

    Args:
        dim: The number of dimensions.
        threshold: The cosine above which products must be right, from 0 up to below 1. At the
            square root of 1 / `dim` both parts weigh the same.

    Returns:
        (dim - 1) T^2 / (1 - T^2), but at least 1.

    Raises:
        ValueError: If the threshold is out of range.

    Reference: Guo et al., Accelerating large-scale inference with anisotropic vector quantization,
    2020, theorem 3.4.
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold is {threshold}: wanted 0 up to below 1.")
    return max(1.0, (dim - 1) * threshold**2 / (1.0 - threshold**2))


def anisotropic_loss(
    errors: Float[Array, "size dim"], vectors: Float[Array, "size dim"], weight: float
) -> Float[Array, "size"]:
    """Squared error whose part parallel to the vector is weighted.

    Args:
        errors: Vectors minus what they are quantized to.
        vectors: The vectors.
        weight: Of the parallel part, at least 0; that of the rest is 1.

    Returns:
        The loss of each vector; for a zero vector the squared error.
    """
    along = jnp.sum(errors * _directions(vectors), axis=1)
    return jnp.sum(errors * errors, axis=1) + (weight - 1.0) * along * along


def encode_anisotropic(
    targets: Float[Array, "size dim"],
    vectors: Float[Array, "size dim"],
    codebooks: Codebooks,
    *,
    weight: float,
) -> UInt8[Array, "size parts"]:
    """Chooses codes with a small anisotropic loss, part after part, in a few sweeps.

    Never worse than plain codes: it starts from them, and no step raises the loss.

    Args:
        targets: What is encoded: vectors, or what is left of them after a centroid.
        vectors: The vectors themselves, whose directions count.
        codebooks: Of `train_anisotropic`.
        weight: Of `parallel_weight`.

    Returns:
        The numbers of the codewords, a byte each.
    """

    def encode_some(rows):
        targets, directions = rows
        parts = split_parts(targets, codebooks.shape[0])
        lines = split_parts(directions, codebooks.shape[0])
        codes = encode(targets, codebooks).T
        for _ in range(SWEEPS):
            codes, _ = _sweep(parts, lines, codebooks, codes, weight, learn=False)
        return codes.T.astype(jnp.uint8)

    return map_rows(encode_some, (targets, _directions(vectors)), ROWS_AT_ONCE)


def train_anisotropic(
    targets: Float[Array, "size dim"],
    vectors: Float[Array, "size dim"],
    codebooks: Codebooks,
    *,
    weight: float,
    key: jax.Array,
    iterations: int = 10,
) -> Codebooks:
    """Improves codebooks for the anisotropic loss by block coordinate descent.

    Takes turns part by part: the best codes, then the codewords that are best for these, both with
    all other parts fixed. No turn raises the loss.

    Args:
        targets: What will be encoded; at most 65,536 random rows are used.
        vectors: The vectors themselves.
        codebooks: To start from, of `train_codebooks`.
        weight: Of `parallel_weight`.
        key: Of the sample.
        iterations: Sweeps over all parts.

    Returns:
        The codebooks.
    """
    if targets.shape[0] > TRAINING_SAMPLE:
        chosen = jax.random.choice(key, targets.shape[0], (TRAINING_SAMPLE,), replace=False)
        targets, vectors = targets[chosen], vectors[chosen]
    return _train(targets, vectors, codebooks, weight, iterations)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _train(targets, vectors, codebooks, weight, iterations):
    parts = split_parts(targets, codebooks.shape[0])
    lines = split_parts(_directions(vectors), codebooks.shape[0])
    codes = encode(targets, codebooks).T.astype(jnp.int32)

    def turn(_, state):
        codes, books = _sweep(parts, lines, state[1], state[0], weight, learn=True)
        return codes.astype(jnp.int32), books

    return lax.fori_loop(0, iterations, turn, (codes, codebooks))[1]


def _sweep(parts, lines, codebooks, codes, weight, *, learn):
    """One turn over the parts; codes and parts have the part first."""
    words = jax.vmap(lambda book, code: book[code])(codebooks, codes.astype(jnp.int32))
    along = jnp.sum((parts - words) * lines, axis=(0, 2))  # parallel error of each vector

    def improve(along, part):
        rows, line, book, code = part
        code = code.astype(jnp.int32)
        rest = along - jnp.sum((rows - book[code]) * line, axis=1)
        wanted = rest + jnp.sum(rows * line, axis=1)
        products = jnp.matmul(book, rows.T, precision=lax.Precision.HIGHEST)
        parallel = wanted[None, :] - jnp.matmul(book, line.T, precision=lax.Precision.HIGHEST)
        squares = jnp.sum(book * book, axis=1)[:, None]
        losses = squares - 2.0 * products + (weight - 1.0) * parallel * parallel
        # The least, by passes that are vectorised; see nearest_centroids.
        numbers = jnp.arange(book.shape[0], dtype=jnp.float32)[:, None]
        least = jnp.min(losses, axis=0)[None, :]
        code = jnp.min(jnp.where(losses == least, numbers, book.shape[0] - 1.0), axis=0)
        code = code.astype(jnp.int32)
        if learn:
            book = _learn_words(rows, line, wanted, code, book, weight)
        return rest + jnp.sum((rows - book[code]) * line, axis=1), (code, book)

    _, (codes, codebooks) = lax.scan(improve, along, (parts, lines, codebooks, codes))
    return codes, codebooks


def _learn_words(rows, line, wanted, code, book, weight):
    """The codewords with the least loss: a small linear system each."""
    count, width = book.shape
    outer = line[:, :, None] * line[:, None, :]
    sizes = jax.ops.segment_sum(jnp.ones_like(wanted), code, count)
    systems = (weight - 1.0) * jax.ops.segment_sum(outer, code, count)
    systems = systems + jnp.maximum(sizes, 1.0)[:, None, None] * jnp.eye(width)[None]
    sides = jax.ops.segment_sum(rows + (weight - 1.0) * wanted[:, None] * line, code, count)
    learnt = jnp.linalg.solve(systems, sides[:, :, None])[:, :, 0]
    return jnp.where((sizes > 0)[:, None], learnt, book)


def _directions(vectors):
    squares = jnp.sum(vectors * vectors, axis=1, keepdims=True)
    return vectors / jnp.sqrt(jnp.where(squares == 0, 1.0, squares))
