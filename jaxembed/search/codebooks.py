"""Codes of the parts of vectors: codebooks, rotations, encoding, decoding and packing.

Plain functions over arrays; the indices that store the codes are in `product`, `ivfpq` and `scann`.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8
from numpy.typing import ArrayLike

from jaxembed.search.kmeans import kmeans, map_rows, nearest_centroids

Rotation = Literal["none", "opq"]
Codebooks = Float[Array, "parts codewords width"]
TRAINING_SAMPLE = 65_536
OPQ_ITERATIONS = 20
NARROW = 8  # dimensions of a part, above which a matrix product is faster
ROWS_AT_ONCE = 2048  # whose least distances and codes stay in a core's cache
WORDS_AT_ONCE = 8  # compared in one pass


def default_parts(dim: int) -> int:
    """One code for every two dimensions, and for every four above 128."""
    return -(-dim // (2 if dim <= 128 else 4))


def train_codebooks(
    vectors: Float[Array, "size dim"],
    parts: int,
    *,
    bits: int = 8,
    key: jax.Array,
    iterations: int = 25,
    start: Codebooks | None = None,
) -> Codebooks:
    """Clusters each part of the vectors.

    Args:
        vectors: Rows to train on; at most 65,536 random ones are used.
        parts: The number of parts; dimensions that do not divide are filled up with zeros.
        bits: Of a code, 4 or 8: 16 or 256 codewords a part.
        key: Of k-means.
        iterations: Of k-means.
        start: Codebooks to improve.

    Returns:
        The codebooks.

    Raises:
        ValueError: If `parts` is not from 1 to the number of dimensions, or `bits` not 4 or 8.

    Reference: Jegou et al., Product quantization for nearest neighbor search, 2011, section 2.2.
    """
    check_parts(parts, bits, vectors.shape[1])
    sample_key, key = jax.random.split(key)
    if vectors.shape[0] > TRAINING_SAMPLE:
        chosen = jax.random.choice(sample_key, vectors.shape[0], (TRAINING_SAMPLE,), replace=False)
        vectors = vectors[chosen]
    keys = jax.random.split(key, parts)
    return _train_parts(split_parts(vectors, parts), keys, start, 1 << bits, iterations)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _train_parts(rows, keys, start, count, iterations):
    def train(part):
        rows, key, start = part
        return kmeans(rows, count, key=key, iterations=iterations, start=start).centroids

    return lax.map(train, (rows, keys, start))


def check_parts(parts: int, bits: int, dim: int) -> None:
    """Raises ValueError on a number of parts or bits that cannot be."""
    if not 1 <= parts <= dim:
        raise ValueError(f"parts is {parts}: wanted 1 to the number of dimensions, {dim}.")
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits}: wanted 4 or 8.")


def check_codebooks(codebooks: ArrayLike, dim: int) -> Codebooks:
    """Checks codebooks that a caller brings."""
    books = jnp.asarray(codebooks, jnp.float32)
    if (
        books.ndim != 3
        or books.shape[1] not in (16, 256)
        or books.shape[2] != -(-dim // books.shape[0])
    ):
        raise ValueError(
            f"The codebooks have shape {books.shape}: wanted [parts, 16 or 256, dimensions a part] "
            f"for vectors of {dim} dimensions."
        )
    return books


def code_bits(codebooks: Codebooks) -> int:
    """4 or 8, by the number of codewords."""
    return 4 if codebooks.shape[1] == 16 else 8


def split_parts(vectors: Float[Array, "size dim"], parts: int) -> Float[Array, "parts size width"]:
    """Cuts vectors into parts of one width, zeros after the last dimension."""
    width = -(-vectors.shape[1] // parts)
    padded = jnp.pad(vectors, ((0, 0), (0, parts * width - vectors.shape[1])))
    return jnp.moveaxis(padded.reshape(-1, parts, width), 1, 0)


@jax.jit
def encode(vectors: Float[Array, "size dim"], codebooks: Codebooks) -> UInt8[Array, "size parts"]:
    """Finds the nearest codeword of each part.

    Args:
        vectors: Rows to encode.
        codebooks: Of `train_codebooks`.

    Returns:
        The numbers of the codewords, a byte each; of equally near ones the first.
    """
    parts, _, width = codebooks.shape
    if width <= NARROW:
        return map_rows(lambda rows: _encode_narrow(rows, codebooks), vectors, ROWS_AT_ONCE)
    codes = lax.map(
        lambda part: nearest_centroids(*part)[0].astype(jnp.uint8),
        (split_parts(vectors, parts), codebooks),
    )
    return codes.T


def _encode_narrow(vectors, codebooks):
    """Compares with one codeword after another, so that no table of distances is written.

    The dimensions are written out: XLA runs a sum over so few numbers many times slower.
    """
    parts, count, width = codebooks.shape
    columns = jnp.transpose(split_parts(vectors, parts), (2, 0, 1))  # [width, parts, size]
    words = jnp.transpose(codebooks, (1, 2, 0))[..., None]  # [codewords, width, parts, 1]

    def compare(found, candidate):
        least, codes = found
        word, number = candidate
        squares = sum((columns[place] - word[place]) ** 2 for place in range(width))
        codes = jnp.where(squares < least, number, codes)
        return (jnp.minimum(squares, least), codes), None

    shape = columns.shape[1:]
    start = jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32)
    candidates = words, jnp.arange(count, dtype=jnp.int32)
    (_, codes), _ = lax.scan(compare, start, candidates, unroll=WORDS_AT_ONCE)
    return codes.T.astype(jnp.uint8)


def decode(
    codes: UInt8[Array, "*batch parts"], codebooks: Codebooks, dim: int
) -> Float[Array, "*batch dim"]:
    """Puts the codewords together.

    Args:
        codes: Of `encode`.
        codebooks: Those used to encode.
        dim: The number of dimensions.

    Returns:
        The vectors that the codes stand for.
    """
    parts, count, width = codebooks.shape
    firsts = jnp.arange(parts, dtype=jnp.int32) * count
    rows = codes.astype(jnp.int32) + firsts.reshape((1,) * (codes.ndim - 1) + (parts,))
    words = codebooks.reshape(parts * count, width).at[rows].get(mode="promise_in_bounds")
    return words.reshape(*codes.shape[:-1], parts * width)[..., :dim]


def pack_codes(codes: ArrayLike, bits: int) -> UInt8[np.ndarray, "size bytes"]:
    """Stores two codes of 4 bits in a byte, the first in the low half; on the host."""
    codes = np.asarray(codes, np.uint8)
    if bits == 8:
        return codes
    codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return codes[:, ::2] | codes[:, 1::2] << 4


def unpack_codes(
    packed: UInt8[Array, "*batch bytes"], codebooks: Codebooks
) -> UInt8[Array, "*batch parts"]:
    """Undoes `pack_codes`; the codebooks say how many codes of how many bits there are."""
    parts, count, _ = codebooks.shape
    if count == 256:
        return packed
    halves = jnp.stack([packed & jnp.uint8(15), packed >> jnp.uint8(4)], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)[..., :parts]


def decode_residuals(
    stored: UInt8[Array, "some rows bytes"],
    lists: Int[Array, "some"],
    codebooks: Codebooks,
    centroids: Float[Array, "lists dim"],
) -> Float[Array, "some rows dim"]:
    """Decodes stored codes and adds the centroids of their lists."""
    residuals = decode(unpack_codes(stored, codebooks), codebooks, centroids.shape[1])
    return residuals + centroids[lists][:, None, :]


def half_squares_of(stored, page_lists, codebooks, centroids, dim):
    """Half the squared lengths of decoded vectors, a few pages at a time."""
    centroids = jnp.zeros((1, dim), jnp.float32) if centroids is None else centroids

    def measure(page):
        vectors = decode_residuals(page[0][None], page[1][None], codebooks, centroids)[0]
        return 0.5 * jnp.sum(vectors * vectors, axis=1)

    return lax.map(measure, (jnp.asarray(stored), jnp.asarray(page_lists)))


def rotate(rows, rotation, parts, bits, key):
    """The rows in the coordinates that are encoded, and the matrix that brings them there."""
    if rotation not in ("none", "opq"):
        raise ValueError(f"Unknown rotation {rotation!r}: choose none or opq.")
    if rotation == "none":
        return rows, None
    matrix = train_rotation(jnp.asarray(rows), parts, bits=bits, key=jax.random.fold_in(key, 1))
    return np.asarray(turned(jnp.asarray(rows), matrix)), matrix


def turned(rows, rotation):
    """The rows times the rotation, or the rows where it is None."""
    if rotation is None:
        return rows
    return jnp.matmul(rows, rotation, precision=lax.Precision.HIGHEST)


def train_rotation(
    vectors: Float[Array, "size dim"],
    parts: int,
    *,
    bits: int = 8,
    key: jax.Array,
    iterations: int = OPQ_ITERATIONS,
) -> Float[Array, "dim dim"]:
    """Finds the rotation after which product quantization errs least.

    Starts from the principal axes, dealt out so that the parts' variances multiply to about the
    same, then takes turns between codebooks and the rotation.

    Args:
        vectors: Rows to train on; at most 16,384 random ones are used.
        parts: The number of parts.
        bits: Of a code, 4 or 8.
        key: Of k-means and the sample.
        iterations: Turns.

    Returns:
        An orthogonal matrix; `vectors @ rotation` are to be encoded.

    Reference: Ge et al., Optimized product quantization, 2013, sections 3.1 and 3.2.
    """
    check_parts(parts, bits, vectors.shape[1])
    sample_key, key = jax.random.split(key)
    size = max(16_384, 32 << bits)
    if vectors.shape[0] > size:
        vectors = vectors[jax.random.choice(sample_key, vectors.shape[0], (size,), replace=False)]
    rotation = _balanced_axes(vectors, parts)
    rotated = jnp.matmul(vectors, rotation, precision=lax.Precision.HIGHEST)
    books = train_codebooks(rotated, parts, bits=bits, key=key, iterations=8)
    for turn in range(iterations):
        key = jax.random.fold_in(key, turn)
        rotation, books = _turn(vectors, rotation, books, key)
    return rotation


@jax.jit
def _turn(vectors, rotation, books, key):
    """Improves the codebooks, then the rotation: the orthogonal Procrustes problem."""
    rotated = jnp.matmul(vectors, rotation, precision=lax.Precision.HIGHEST)
    parts, count, _ = books.shape
    books = _train_parts(split_parts(rotated, parts), jax.random.split(key, parts), books, count, 2)
    decoded = decode(encode(rotated, books), books, vectors.shape[1])
    product = jnp.matmul(vectors.T, decoded, precision=lax.Precision.HIGHEST)
    left, _, right = jnp.linalg.svd(product)
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST), books


def _balanced_axes(vectors, parts):
    """Principal axes, each given to the part with the smallest product of variances so far."""
    rows = np.asarray(vectors, np.float64)
    variances, axes = np.linalg.eigh(
        np.cov(rows, rowvar=False, bias=True).reshape(rows.shape[1], -1)
    )
    width = -(-rows.shape[1] // parts)
    room = np.minimum(width, rows.shape[1] - width * np.arange(parts))
    places, weights = [[] for _ in range(parts)], np.zeros(parts)
    for axis in np.argsort(-variances, kind="stable"):
        is_open = np.asarray(
            [len(taken) < space for taken, space in zip(places, room, strict=True)]
        )
        part = int(np.argmin(np.where(is_open, weights, np.inf)))
        places[part].append(axis)
        weights[part] += np.log(max(variances[axis], 1e-12) / max(variances.max(), 1e-12)) + 30.0
    return jnp.asarray(axes[:, np.concatenate(places).astype(int)], jnp.float32)
