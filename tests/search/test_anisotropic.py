import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.anisotropic import (
    anisotropic_loss,
    encode_anisotropic,
    parallel_weight,
    train_anisotropic,
)
from jaxembed.search.codebooks import decode, encode, train_codebooks


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def losses(rows, codes, books, weight):
    errors = rows - np.asarray(decode(jnp.asarray(codes), jnp.asarray(books), rows.shape[1]))
    return np.asarray(anisotropic_loss(jnp.asarray(errors), jnp.asarray(rows), weight))


def test_the_weight_is_that_of_the_paper():
    assert parallel_weight(50, 0.2) == pytest.approx(49 * 0.04 / 0.96)
    assert parallel_weight(101, 0.5) == pytest.approx(100 / 3)
    assert parallel_weight(50, 0.0) == 1.0
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold is"):
            parallel_weight(50, threshold)


def test_the_loss_splits_the_error_by_direction():
    vectors, errors = draw(0, 9, 4), draw(1, 9, 4)
    vectors[3] = 0.0
    for number, (vector, error) in enumerate(zip(vectors, errors, strict=True)):
        length = np.linalg.norm(vector)
        along = error @ vector / length if length else 0.0
        expected = 5.0 * along**2 + (error @ error - along**2)
        found = anisotropic_loss(jnp.asarray(errors), jnp.asarray(vectors), 5.0)[number]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_codes_are_near_the_best_of_all():
    rows, books = draw(2, 40, 4), np.pad(draw(3, 2, 4, 2), ((0, 0), (0, 12), (0, 0)), mode="edge")
    weight = 6.0
    choices = np.asarray(list(itertools.product(range(4), repeat=2)))
    every = np.stack(
        [
            losses(rows, np.tile(choice, (40, 1)).astype(np.uint8), books, weight)
            for choice in choices
        ]
    )
    codes = encode_anisotropic(
        jnp.asarray(rows), jnp.asarray(rows), jnp.asarray(books), weight=weight
    )
    plain = losses(rows, encode(jnp.asarray(rows), jnp.asarray(books)), books, weight)
    found = losses(rows, codes, books, weight)
    assert (found <= plain * (1 + 1e-5) + 1e-5).all() and found.sum() < plain.sum()
    # Descent from part to part may stop before the best pair, but seldom does.
    assert (found <= every.min(axis=0) * 1.0001 + 1e-5).mean() > 0.8


def test_training_lowers_the_loss(key):
    rows = jnp.asarray(draw(4, 500, 8))
    books = train_codebooks(rows, 4, bits=4, key=key, iterations=5)
    weight, totals = 4.0, []
    for iterations in (0, 1, 5):
        learnt = train_anisotropic(rows, rows, books, weight=weight, key=key, iterations=iterations)
        codes = encode_anisotropic(rows, rows, learnt, weight=weight)
        totals.append(losses(np.asarray(rows), codes, learnt, weight).sum())
    assert totals[2] < totals[1] < totals[0]


def test_weight_one_gives_plain_codes(key):
    rows = jnp.asarray(draw(5, 100, 6))
    books = train_codebooks(rows, 3, bits=4, key=key, iterations=3)
    found = encode_anisotropic(rows, rows, books, weight=1.0)
    np.testing.assert_array_equal(found, encode(rows, books))
