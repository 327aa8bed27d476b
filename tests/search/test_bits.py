import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.bits import differing_bits, hamming_distances, pack_bits, unpack_bits


@pytest.mark.parametrize("dim", [1, 32, 70])
def test_bits_are_packed_and_counted(dim):
    rng = np.random.default_rng(dim)
    left, right = rng.random((13, dim)) < 0.5, rng.random((5, dim)) < 0.5
    packed = pack_bits(jnp.asarray(left))
    for row, words in zip(left, np.asarray(packed), strict=True):
        assert sum(int(word) << 32 * i for i, word in enumerate(words)) == sum(
            1 << int(i) for i in np.flatnonzero(row)
        )
    np.testing.assert_array_equal(unpack_bits(packed, dim), np.where(left, 1, -1))
    differ = (left[:, None] != right[None]).sum(axis=2)
    others = pack_bits(jnp.asarray(right))
    np.testing.assert_array_equal(jax.jit(differing_bits)(packed, others), differ)
    np.testing.assert_array_equal(hamming_distances(packed[:5], others), np.diagonal(differ))
    stacked = pack_bits(jnp.asarray(left[:12]).reshape(3, 4, dim))
    np.testing.assert_array_equal(stacked.reshape(12, -1), packed[:12])
