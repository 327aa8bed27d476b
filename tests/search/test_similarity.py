import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxembed.search.similarity import (
    pairwise_cosine,
    pairwise_dot,
    pairwise_euclidean,
    rowwise_cosine,
    rowwise_dot,
    rowwise_euclidean,
    unit_rows,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")
PAIRWISE = {"dot": pairwise_dot, "cosine": pairwise_cosine, "euclidean": pairwise_euclidean}
ROWWISE = {"dot": rowwise_dot, "cosine": rowwise_cosine, "euclidean": rowwise_euclidean}


def naive(x, y, metric):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if metric == "euclidean":
        return np.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    product = sum(a * b for a, b in zip(x, y, strict=True))
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    if metric == "cosine":
        return product / lengths if lengths else 0.0
    return product


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("metric", PAIRWISE)
def test_equals_one_pair_at_a_time(metric):
    left, right = draw(0, 11, 6).at[3].set(0.0), draw(1, 11, 6)
    expected = [[naive(x, y, metric) for y in right] for x in left]
    got = PAIRWISE[metric](left, right)
    # A float32 sum of 6 products of order 1.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        ROWWISE[metric](left, right), np.diag(expected), rtol=1e-5, atol=1e-6
    )
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("pair", [ROWWISE, PAIRWISE])
def test_distances_keep_their_digits_far_from_the_origin(pair):
    left, right = 1000 + draw(2, 5, 8), 1000 + draw(3, 5, 8)
    got = np.asarray(pair["euclidean"](left, right))
    if pair is ROWWISE:
        expected = [naive(x, y, "euclidean") for x, y in zip(left, right, strict=True)]
    else:
        expected = [[naive(x, y, "euclidean") for y in right] for x in left]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_invariances():
    left, right = draw(4, 7, 5), draw(5, 7, 5)
    rotation = jnp.linalg.qr(draw(6, 5, 5))[0]
    for metric, pairs in PAIRWISE.items():
        turned = pairs(left @ rotation, right @ rotation)
        np.testing.assert_allclose(turned, pairs(left, right), atol=2e-5, err_msg=metric)
    scaled = pairwise_cosine(left * 3e25, right * 2e-25)
    np.testing.assert_allclose(scaled, pairwise_cosine(left, right), atol=1e-6)
    shifted = pairwise_euclidean(left + 0.5, right + 0.5)
    np.testing.assert_allclose(shifted, pairwise_euclidean(left, right), atol=1e-5)


def test_ranges():
    left, right = draw(8, 40, 3), draw(9, 40, 3)
    assert np.abs(pairwise_cosine(left, right)).max() <= 1 + 1e-6
    assert np.asarray(pairwise_euclidean(left, left)).min() == 0
    np.testing.assert_allclose(rowwise_cosine(left, -2 * left), -np.ones(40), atol=1e-6)


@pytest.mark.parametrize("metric", ROWWISE)
def test_gradients(metric):
    def measure(left, right):
        return ROWWISE[metric](jnp.asarray(left), jnp.asarray(right))

    check_grads(measure, (draw(10, 3, 4), draw(11, 3, 4)), 1, modes=["rev"], rtol=2e-2)


@pytest.mark.parametrize("functions", [ROWWISE, PAIRWISE])
@pytest.mark.parametrize("metric", ROWWISE)
def test_gradient_at_zero_vectors(functions, metric):
    zero, other = jnp.zeros((2, 4)), jnp.asarray([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    to_left, to_right = jax.grad(lambda x, y: functions[metric](x, y).sum(), argnums=(0, 1))(
        zero, other
    )
    if metric == "cosine":
        np.testing.assert_array_equal(to_left, zero)
        np.testing.assert_array_equal(to_right, zero)
    elif metric == "euclidean":
        # The distance of two zero vectors has gradient 0, that of others is a unit vector.
        assert np.isfinite(to_left).all() and np.isfinite(to_right).all()
        times = 1 if functions is ROWWISE else 2
        np.testing.assert_allclose(to_right[0], times * other[0] / np.sqrt(5), rtol=1e-6)
        np.testing.assert_array_equal(to_right[1], zero[1])
    else:
        np.testing.assert_array_equal(to_right, zero)


def test_unit_rows_of_any_size():
    rows = jnp.asarray([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0], [0.0, -2.0]])
    expected = [[0.6, 0.8], [0.6, 0.8], [0, 0], [0, -1]]
    np.testing.assert_allclose(unit_rows(rows), expected, rtol=1e-6)
