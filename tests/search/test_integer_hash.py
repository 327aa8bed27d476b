import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.integer_hash import (
    hash_items,
    mix,
    random_signs,
    seed_words,
    to_range,
    words_of,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def naive_mix(word):
    """The mixer on Python's integers."""
    word = ((word ^ word >> 16) * 0x7FEB352D) % 2**32
    word = ((word ^ word >> 15) * 0x846CA68B) % 2**32
    return word ^ word >> 16


def test_hash_equals_python_integers_on_host_and_device():
    items = np.random.default_rng(0).integers(0, 2**32, (50, 3), dtype=np.uint32)
    first, last = (int(word) for word in seed_words(7, 6)[4:])
    expected = []
    for row in items.tolist():
        value = row[0] ^ first
        for word in row[1:]:
            value = naive_mix(value) ^ word
        expected.append(naive_mix(naive_mix(value) ^ last))
    np.testing.assert_array_equal(hash_items(items, seed=7, stream=2), expected)
    hashed = jax.jit(lambda items: hash_items(items, seed=7, stream=2))(jnp.asarray(items))
    np.testing.assert_array_equal(hashed, expected)


def test_seed_words_are_those_of_splitmix64():
    # The first outputs of SplitMix64 from state 0, as published with its source.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    np.testing.assert_array_equal(seed_words(0, 3), [value >> 32 for value in published])


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 65_536, 65_537, 10**9, 2**31 - 1])
def test_range_is_the_high_half_of_the_product(size):
    hashes = np.random.default_rng(1).integers(0, 2**32, 1000, dtype=np.uint32)
    hashes[:3] = 0, 2**32 - 1, 2**31
    expected = [value * size >> 32 for value in hashes.tolist()]
    np.testing.assert_array_equal(to_range(hashes, size), expected)
    np.testing.assert_array_equal(to_range(jnp.asarray(hashes), size), expected)


def test_each_input_bit_flips_each_output_bit_half_the_time():
    words = np.random.default_rng(2).integers(0, 2**32, 4000, dtype=np.uint32)
    for bit in range(32):
        flipped = mix(words) ^ mix(words ^ np.uint32(1 << bit))
        rates = np.mean(flipped[:, None] >> np.arange(32, dtype=np.uint32) & 1, axis=0)
        # 1,024 rates, of which the furthest lies about 3.3 standard deviations off by chance.
        assert abs(rates - 0.5).max() < 5 * 0.5 / np.sqrt(4000)


def test_signs_are_the_highest_bit():
    hashes = np.asarray([0, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
    for signs in random_signs(hashes), random_signs(jnp.asarray(hashes)):
        np.testing.assert_array_equal(signs, [1, 1, -1, -1])


def test_words_of_texts_are_blake2b_and_of_integers_themselves():
    digest = hashlib.blake2b("Füße".encode(), digest_size=8).digest()
    low, high = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    expected = [[low, high], [5, 0], [2**32 - 1, 2**32 - 1], [0, 2**31]]
    np.testing.assert_array_equal(words_of(["Füße", 5, -1, 2**63]), expected)
    for dtype in (np.int32, np.int64, np.uint64):
        numbers = np.asarray([0, 1, 2**31 - 1], dtype)
        np.testing.assert_array_equal(words_of(numbers), words_of(numbers.tolist()))
    np.testing.assert_array_equal(words_of(np.asarray([-2], np.int8)), words_of([-2]))
    assert words_of([]).shape == (0, 2)


def test_what_is_no_item_is_refused():
    with pytest.raises(TypeError, match="1.5 is float: wanted text, bytes or an integer"):
        words_of([1.5])
    with pytest.raises(ValueError, match="has more than 64 bits"):
        words_of([2**64])
    with pytest.raises(ValueError, match="wanted one dimension"):
        words_of(np.zeros((2, 2), np.int32))
    with pytest.raises(ValueError, match="size is 0"):
        to_range(np.zeros(1, np.uint32), 0)
