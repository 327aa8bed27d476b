import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.bits import hamming_distances
from jaxembed.search.signs import (
    collision_probability,
    gaussian_directions,
    orthogonal_directions,
    sign_codes,
)

DIM = 24


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pairs_at(angle, count):
    """Pairs of vectors at an angle."""
    first = draw(3, count, DIM)
    second = draw(4, count, DIM)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second -= np.sum(first * second, axis=1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first, 7 * (np.cos(angle) * first + np.sin(angle) * second)  # lengths do not matter


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.0])
def test_bits_collide_as_theory_says(angle, key):
    first, second = pairs_at(angle, 300)
    bits = 96
    for make in (gaussian_directions, orthogonal_directions):
        directions = make(key, bits, DIM)
        codes = [sign_codes(jnp.asarray(rows), directions) for rows in (first, second)]
        rate = 1 - np.asarray(hamming_distances(*codes)).mean() / bits
        expected = float(collision_probability(jnp.cos(jnp.float32(angle))))
        assert expected == pytest.approx(1 - angle / np.pi, abs=1e-5)
        # Pairs and directions are shared: as many independent trials as there are directions.
        assert abs(rate - expected) < 3 * np.sqrt(expected * (1 - expected) / bits)


@pytest.mark.parametrize("angle", [0.3, 0.8])
def test_tables_collide_as_theory_says(angle, key):
    first, second = pairs_at(angle, 1)
    bits, tables, trials = 8, 3, 1500
    directions = gaussian_directions(key, trials * tables * bits, DIM)
    codes = [np.asarray(sign_codes(jnp.asarray(rows), directions)) for rows in (first, second)]
    same = np.unpackbits(~(codes[0] ^ codes[1]).view(np.uint8), bitorder="little")
    collides = same.reshape(trials, tables, bits).all(axis=2).any(axis=1)
    expected = float(collision_probability(np.cos(angle), bits=bits, tables=tables))
    assert expected == pytest.approx(1 - (1 - (1 - angle / np.pi) ** bits) ** tables, abs=1e-5)
    assert abs(collides.mean() - expected) < 3 * np.sqrt(expected * (1 - expected) / trials)


def test_codes_are_packed_signs(key):
    vectors, directions = draw(5, 9, DIM), np.asarray(orthogonal_directions(key, 64, DIM))
    expected = np.zeros((9, 2), np.uint32)
    for row in range(9):
        for bit in range(64):
            if directions[bit] @ vectors[row] >= 0:
                expected[row, bit // 32] |= np.uint32(1 << bit % 32)
    codes = sign_codes(jnp.asarray(vectors), jnp.asarray(directions))
    np.testing.assert_array_equal(codes, expected)
    distances = hamming_distances(codes[:1].repeat(9, axis=0), codes)
    bits = [[int(word) >> bit & 1 for word in row for bit in range(32)] for row in expected]
    np.testing.assert_array_equal(distances, np.sum(np.asarray(bits[0]) != bits, axis=1))


def test_directions_are_orthogonal_in_blocks(key):
    directions = np.asarray(orthogonal_directions(key, 60, DIM))
    np.testing.assert_allclose(directions[:24] @ directions[:24].T, np.eye(24), atol=1e-5)
    np.testing.assert_allclose(directions[24:48] @ directions[24:48].T, np.eye(24), atol=1e-5)


def test_a_wrong_number_of_directions_is_refused():
    with pytest.raises(ValueError, match="40 directions"):
        sign_codes(jnp.ones((1, 2)), jnp.ones((40, 2)))
