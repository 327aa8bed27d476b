import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.integer_hash import hash_items, words_of
from jaxembed.search.projections import hash_features, project, projected_dim, sign_matrix

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_projected_distances_keep_the_bound():
    # Dasgupta & Gupta: at this many dimensions some projection keeps every pair; on average over
    # pairs it is far better.
    points = np.random.default_rng(0).standard_normal((40, 500)).astype(np.float32)
    width = projected_dim(len(points), distortion=0.5)
    assert width == 178  # 4 ln 40 / (.125 - .0416667)
    for nonzero in (1, 3):
        projected = project(points, width, seed=1, nonzero=nonzero)
        before, after = (
            np.sum((rows[:, None] - rows[None]) ** 2, axis=2)[np.triu_indices(40, 1)]
            for rows in (points, projected)
        )
        ratios = after / before
        assert abs(ratios - 1).max() < 0.5
        # Pairs share points: 40 are independent at least.
        assert abs(ratios.mean() - 1) < 3 * np.sqrt(2 / width / 40)
        assert np.std(ratios) < 1.3 * np.sqrt(2 / width)


@pytest.mark.parametrize("nonzero", [1, 3, 10])
def test_lengths_are_kept_on_average_over_matrices(nonzero):
    vector = np.random.default_rng(1).standard_normal((1, 60)).astype(np.float32)
    squares = [
        np.sum(project(vector, 16, seed=seed, nonzero=nonzero) ** 2) for seed in range(200)
    ] / np.sum(vector**2)
    spread = np.std(squares)
    assert abs(np.mean(squares) - 1) < 3 * spread / np.sqrt(200)
    fourth = np.sum(vector**4) / np.sum(vector**2) ** 2
    # The variance of a sum of independent entries of fourth moment `nonzero`.
    expected = np.sqrt((2 + (nonzero - 3) * fourth) / 16)
    assert spread == pytest.approx(expected, rel=0.2)


def test_matrix_is_hashed_entry_by_entry():
    matrix = sign_matrix(5, 4, seed=2, nonzero=3)
    for row in range(5):
        for column in range(4):
            place = np.asarray([[row, column]], np.uint32)
            high = hash_items(place, seed=2).item() >> 31
            is_kept = hash_items(place, seed=2, stream=1).item() * 3 >> 32 == 0
            assert matrix[row, column] == np.float32(is_kept * (1 - 2 * high) * np.sqrt(3 / 4))
    wider = sign_matrix(5, 8, seed=2)[:, :4]
    np.testing.assert_array_equal(np.sign(wider), np.sign(sign_matrix(5, 4, seed=2)))


def test_host_and_device_project_alike():
    vectors = np.random.default_rng(2).integers(-3, 4, (3, 2, 9)).astype(np.float32)
    device = jax.jit(lambda vectors: project(vectors, 16))(jnp.asarray(vectors))
    # Whole numbers over 4: both sums are exact.
    np.testing.assert_array_equal(project(vectors, 16), device)


def test_hashed_inner_products_are_unbiased_with_the_stated_variance():
    names = np.asarray(
        [words_of([f"left {i}" if row else f"right {i}" for i in range(30)]) for row in range(2)]
    )
    names[1, :12] = names[0, :12]
    values = np.random.default_rng(3).standard_normal((2, 30)).astype(np.float32)
    product = values[0, :12] @ values[1, :12]
    squares = np.sum(values**2, axis=1)
    found = []
    for seed in range(200):
        first, second = hash_features(names, values, 32, seed=seed)
        found.append(first @ second)
    deviation = np.sqrt((squares[0] * squares[1] + product**2) / 32)
    assert abs(np.mean(found) - product) < 3 * deviation / np.sqrt(200)
    assert np.std(found) < 1.2 * deviation


def test_features_hash_alike_on_host_and_device_and_zeros_pad():
    names = words_of(["a", "b", "a", "c", "", ""]).reshape(2, 3, 2)
    values = np.asarray([[1, 2, 3], [4, 0, 0]], np.float32)
    host = hash_features(names, values, 8)
    device = jax.jit(lambda names, values: hash_features(names, values, 8))(names, values)
    np.testing.assert_array_equal(host, device)
    assert sorted(abs(host[0])) in ([0] * 6 + [2, 4], [0] * 7 + [2], [0] * 7 + [6])
    assert np.count_nonzero(host[1]) == 1


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="distortion 2.0"):
        projected_dim(10, distortion=2.0)
    with pytest.raises(ValueError, match="nonzero 0"):
        sign_matrix(2, 2, nonzero=0)
    with pytest.raises(ValueError, match="give a value each"):
        hash_features(np.zeros((1, 2, 1), np.uint32), np.zeros((1, 3), np.float32), 4)
