"""Seeded hash functions of 32-bit words, the same numbers from NumPy and from JAX.

An item is a row of one or more 32-bit words; `words_of` makes such rows of texts and integers.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

MASK = 0xFFFFFFFF
AnyArray = Array | np.ndarray


def words_of(items: Iterable[Any]) -> UInt32[np.ndarray, "items 2"]:
    """Turns items into rows of two words, on the host.

    Text and bytes become 64 bits of BLAKE2b, so equal texts give equal rows on every machine and
    under every PYTHONHASHSEED. Integers become their two's complement of 64 bits.

    Args:
        items: Texts (hashed as UTF-8), bytes, or integers from -2^63 to 2^64 - 1; or an integer
            array of one dimension, which is converted at once.

    Returns:
        The low word, then the high word, of each item.

    Raises:
        TypeError: If an item is neither text nor bytes nor an integer.
        ValueError: If an integer has more than 64 bits, or an array is not of one dimension.
    """
    if isinstance(items, np.ndarray) and np.issubdtype(items.dtype, np.integer):
        if items.ndim != 1:
            raise ValueError(f"items have shape {items.shape}: wanted one dimension.")
        long = items.astype(np.uint64 if items.dtype == np.uint64 else np.int64).view(np.uint64)
    else:
        long = np.fromiter((_to_64_bits(item) for item in items), np.uint64)
    return np.stack([long & np.uint64(MASK), long >> np.uint64(32)], axis=1).astype(np.uint32)


def hash_items(
    items: UInt32[AnyArray, "*batch words"], *, seed: int, stream: int = 0
) -> UInt32[AnyArray, "*batch"]:
    """Hashes rows of words to 32 bits.

    Wrapping uint32 arithmetic only, so that every device and NumPy give the same bits; for one
    word and a fixed seed it is a bijection.

    Args:
        items: Rows of words.
        seed: Chooses the function.
        stream: Chooses one of many functions of the same seed, at least 0.

    Returns:
        Hash values, spread over all of uint32.
    """
    first, last = seed_words(seed, 2 * stream + 2)[-2:]
    value = items[..., 0] ^ first
    for place in range(1, items.shape[-1]):
        value = mix(value) ^ items[..., place]
    return mix(mix(value) ^ last)


def seed_words(seed: int, count: int) -> UInt32[np.ndarray, "count"]:
    """Draws constants from a seed by SplitMix64, to select members of a family of functions.

    Args:
        seed: Any integer.
        count: How many; the first ones do not depend on it.

    Returns:
        Constants.
    """
    words = []
    for place in range(count):
        state = (seed + (place + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        words.append((state ^ (state >> 31)) >> 32)
    return np.asarray(words, np.uint32)


def mix(words: UInt32[AnyArray, "*shape"]) -> UInt32[AnyArray, "*shape"]:
    """Scrambles 32 bits: a bijection in which each input bit flips each output bit half the time.

    Args:
        words: Any words, of at least one dimension (NumPy warns when a scalar wraps around).

    Returns:
        Scrambled words.

    Reference: the constants are those of C. Wellons' search for low-bias mixers, "lowbias32",
    https://nullprogram.com/blog/2018/07/31.
    """
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x7FEB352D)
    words = (words ^ (words >> np.uint32(15))) * np.uint32(0x846CA68B)
    return words ^ (words >> np.uint32(16))


def to_range(hashes: UInt32[AnyArray, "*shape"], size: int) -> Int32[AnyArray, "*shape"]:
    """Maps hash values to 0 .. size - 1 by their high bits: floor(hash * size / 2^32).

    No remainder is taken, so no place is favoured by more than size / 2^32.

    Args:
        hashes: Values spread over uint32.
        size: Number of places, from 1 to 2^31 - 1.

    Returns:
        Places.

    Raises:
        ValueError: If the size is out of range.
    """
    if not 1 <= size < 2**31:
        raise ValueError(f"size is {size}: wanted 1 to 2^31 - 1 places.")
    low, shift = np.uint32(0xFFFF), np.uint32(16)
    size_high, size_low = np.uint32(size >> 16), np.uint32(size & 0xFFFF)
    high_part, low_part = hashes >> shift, hashes & low
    # The 64-bit product in 16-bit digits, because JAX has no uint64 by default.
    first, second = high_part * size_low, low_part * size_high
    carry = (first & low) + (second & low) + ((low_part * size_low) >> shift)
    places = high_part * size_high + (first >> shift) + (second >> shift) + (carry >> shift)
    return places.astype(np.int32)


def is_host(*arrays: AnyArray) -> bool:
    """Tells whether all arrays are NumPy's, so that the work can stay on the host.

    Args:
        arrays: Arrays of NumPy or JAX.

    Returns:
        False as soon as one is JAX's.
    """
    return all(isinstance(array, np.ndarray) for array in arrays)


def random_signs(hashes: UInt32[AnyArray, "*shape"]) -> Int32[AnyArray, "*shape"]:
    """Turns the highest bit of hash values into a sign.

    Args:
        hashes: Values spread over uint32.

    Returns:
        1 or -1, each for half of the values.
    """
    space = np if is_host(hashes) else jnp
    return space.where(hashes >> np.uint32(31) == 0, np.int32(1), np.int32(-1))


def _to_64_bits(item):
    """One item as an unsigned 64-bit integer."""
    if isinstance(item, str):
        item = item.encode()
    if isinstance(item, bytes):
        return int.from_bytes(hashlib.blake2b(item, digest_size=8).digest(), "little")
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        if not -(2**63) <= item < 2**64:
            raise ValueError(f"{item} has more than 64 bits: hash its decimal text instead.")
        return int(item) & 0xFFFFFFFFFFFFFFFF
    raise TypeError(f"{item!r} is {type(item).__name__}: wanted text, bytes or an integer.")
