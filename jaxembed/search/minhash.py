"""MinHash: short signatures of sets whose agreement estimates the sets' Jaccard similarity."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float32, UInt32

from jaxembed.search.integer_hash import AnyArray, hash_items, is_host, mix, seed_words

EMPTY = np.uint32(0xFFFFFFFF)


def minhash(
    items: UInt32[AnyArray, "sets items words"],
    *,
    mask: Bool[AnyArray, "sets items"] | None = None,
    functions: int = 128,
    seed: int = 0,
) -> UInt32[AnyArray, "sets functions"]:
    """Signs each set with the least hash value of its items, under many hash functions.

    Two signatures agree in a place with a probability equal to the Jaccard similarity of the sets;
    the share of agreeing places has a standard error of sqrt(J (1 - J) / functions). NumPy arrays
    are signed on the host, JAX arrays on the device, to the same bits. Needs memory for one value
    an item at a time, not for `functions` of them.

    Args:
        items: Items as rows of words, see `words_of`; repeated items count once.
        mask: False marks padding.
        functions: Length of a signature.
        seed: Chooses the functions; only signatures of one seed can be compared.

    Returns:
        Signatures; those of empty sets are 2^32 - 1 throughout.

    Raises:
        ValueError: If `functions` is below 1.

    Reference: Broder, "On the resemblance and containment of documents", 1997.
    """
    if functions < 1:
        raise ValueError(f"functions is {functions}: a signature needs at least 1.")
    space = np if is_host(items) else jnp
    hashes = hash_items(items, seed=seed)  # [sets, items]
    selectors = seed_words(~seed, functions)

    def least(selector):
        values = mix(hashes ^ selector)
        if mask is not None:
            values = space.where(mask, values, EMPTY)
        return values.min(axis=1, initial=EMPTY)  # [sets]

    if space is np:
        return np.stack([least(selector) for selector in selectors], axis=1)
    return lax.map(least, jnp.asarray(selectors)).T


def jaccard(
    first: UInt32[AnyArray, "*batch functions"], second: UInt32[AnyArray, "*batch others"]
) -> Float32[AnyArray, "*batch"]:
    """Estimates the Jaccard similarity of sets from their signatures.

    Args:
        first: Signatures.
        second: Signatures of the same functions and seed.

    Returns:
        The share of agreeing places, 0 to 1; 1 for two empty sets, which are equal.

    Raises:
        ValueError: If the signatures differ in length.
    """
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"Signatures of {first.shape[-1]} and {second.shape[-1]} functions: make both alike."
        )
    return (first == second).mean(axis=-1, dtype=np.float32)


def merge_signatures(
    first: UInt32[AnyArray, "*shape"], second: UInt32[AnyArray, "*shape"]
) -> UInt32[AnyArray, "*shape"]:
    """Returns the signatures of the unions, exactly those that `minhash` would give.

    Args:
        first: Signatures.
        second: Signatures of the same functions and seed.

    Returns:
        Signatures of the unions.
    """
    return (np if is_host(first, second) else jnp).minimum(first, second)


def band_keys(
    signatures: UInt32[AnyArray, "sets functions"], bands: int
) -> UInt32[AnyArray, "sets bands"]:
    """Hashes each band of a signature, so that sets with an equal key in a band are candidates.

    Args:
        signatures: Signatures.
        bands: How many bands of equal length; must divide the number of functions.

    Returns:
        One key a band; two sets share at least one with `band_probability`.

    Raises:
        ValueError: If the bands do not divide the signature.
    """
    if bands < 1 or signatures.shape[1] % bands:
        raise ValueError(f"{bands} bands do not divide {signatures.shape[1]} functions evenly.")
    rows = signatures.reshape(len(signatures), bands, -1)
    keys = [hash_items(rows[:, band], seed=band) for band in range(bands)]
    return (np if is_host(signatures) else jnp).stack(keys, axis=1)


def band_probability(
    similarity: float | Float32[AnyArray, "*shape"], *, functions: int, bands: int
) -> float | Float32[AnyArray, "*shape"]:
    """States the probability that two sets share the key of at least one band.

    Args:
        similarity: Jaccard similarity, 0 to 1.
        functions: Length of a signature.
        bands: How many bands.

    Returns:
        1 - (1 - J^(functions / bands))^bands.
    """
    return 1.0 - (1.0 - similarity ** (functions // bands)) ** bands
