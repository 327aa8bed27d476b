import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.nn import Views, add_noise, random_crop, random_shift, random_views, scale_to_ink
from jaxembed.nn.augmentation import _resample, _weights

IMAGES = np.random.default_rng(0).random((6, 8, 10, 2), np.float32)
SIGNED = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 6, 5, 2)), jnp.float32)
KEY = jax.random.key(3)


def test_a_shift_moves_whole_pixels_and_zeros_come_in():
    moved = np.asarray(random_shift(jnp.asarray(IMAGES), KEY, most=2))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = set()
    for image, result in zip(padded, moved, strict=True):
        found = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(image[row : row + 8, column : column + 10], result)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 2
    np.testing.assert_array_equal(random_shift(jnp.asarray(IMAGES), KEY, most=0), IMAGES)


def test_a_crop_of_everything_is_the_image():
    whole = random_crop(jnp.asarray(IMAGES), KEY, smallest=1.0)
    np.testing.assert_allclose(whole, IMAGES, atol=1e-5)


def test_a_crop_enlarges_a_part_within_the_image():
    rows, columns = np.mgrid[0:8, 0:10].astype(np.float32) + 0.5
    ramp = np.broadcast_to(np.stack([rows, columns], -1), IMAGES.shape)
    cropped = np.asarray(random_crop(jnp.asarray(ramp), KEY, smallest=0.25))
    # Inside, a crop of a ramp is a ramp whose slope is the share of the side that is kept.
    for channel, axis in ((0, 1), (1, 2)):
        values = cropped[..., channel]
        slopes = np.diff(values, axis=axis)
        inner = slopes[:, 2:-2, 2:-2]
        assert np.all(np.ptp(inner.reshape(len(inner), -1), axis=1) < 1e-4)
        kept = inner[:, 0, 0]
        assert np.all((kept >= 0.5 - 1e-4) & (kept <= 1 + 1e-4))
        assert values.min() >= 0.5 - 1e-4 and values.max() <= values.shape[axis] - 0.5 + 1e-4
    np.testing.assert_allclose(
        np.diff(cropped[:, 4, 4:6, 1], axis=1)[:, 0],
        np.diff(cropped[:, 4:6, 4, 0], axis=1)[:, 0],
        atol=1e-4,
    )  # proportions stay


def test_noise_has_its_deviation_and_stays_within_the_range():
    grey = jnp.full((50, 8, 8, 1), 0.5)
    noisy = np.asarray(add_noise(grey, KEY, deviation=0.1))
    # 3,200 draws: the standard error of the deviation is 0.1 / sqrt(6,400) = 0.00125.
    assert abs(noisy.std() - 0.1) < 0.006 and abs(noisy.mean() - 0.5) < 0.01
    wild = np.asarray(add_noise(grey, KEY, deviation=3.0))
    assert wild.min() == 0.0 and wild.max() == 1.0


def test_equal_keys_give_equal_views_and_each_image_has_its_own():
    same = jnp.broadcast_to(jnp.asarray(IMAGES[:1]), IMAGES.shape)
    for view in (
        lambda key: random_crop(same, key, smallest=0.3),
        lambda key: random_shift(same, key, most=3),
        lambda key: add_noise(same, key, deviation=0.2),
    ):
        first = np.asarray(view(KEY))
        np.testing.assert_array_equal(first, view(KEY))
        assert not np.array_equal(first, view(jax.random.key(4)))
        assert len({image.tobytes() for image in first}) > 3


def test_wrong_amounts_are_explained():
    images = jnp.asarray(IMAGES)
    with pytest.raises(ValueError, match="smallest is 0"):
        random_crop(images, KEY, smallest=0.0)
    with pytest.raises(ValueError, match="most is -1"):
        random_shift(images, KEY, most=-1)
    with pytest.raises(ValueError, match="deviation is -0.1"):
        add_noise(images, KEY, deviation=-0.1)


def test_whole_shifts_move_pixels_and_repeat_the_edge():
    shift, zoom = jnp.asarray([1.0, 0.0, -2.0]), jnp.ones(3)
    moved = np.asarray(_resample(SIGNED, _weights(6, shift, zoom), "byi,bihc->byhc"))
    images = np.asarray(SIGNED)
    np.testing.assert_allclose(moved[0, :-1], images[0, 1:], atol=1e-6)
    np.testing.assert_allclose(moved[0, -1], images[0, -1], atol=1e-6)
    np.testing.assert_allclose(moved[1], images[1], atol=1e-6)
    np.testing.assert_allclose(moved[2, 2:], images[2, :-2], atol=1e-6)


def test_views_stay_within_their_limits_and_differ(key):
    assert random_views(SIGNED, key, Views()) is SIGNED
    draw = jax.jit(random_views, static_argnums=2)
    views = Views(shift=1, zoom=0.2, contrast=0.5)
    first, second = (draw(SIGNED, jax.random.key(seed), views) for seed in (0, 1))
    assert np.abs(first).max() <= 1.5 and np.abs(first - second).max() > 1e-2
    flat = draw(jnp.full(SIGNED.shape, 0.5), key, Views(shift=1, zoom=0.2))
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)  # each row of weights sums to 1
    noisy = draw(jnp.zeros((64, 8, 8, 1)), key, Views(noise=0.1))
    assert abs(float(np.std(noisy)) - 0.1) < 0.01


def test_stretching_widens_what_it_lowers(key):
    """Blobs keep the product of their spreads, and each has its own proportions."""
    places = np.arange(32) - 15.5
    line = np.exp(-0.5 * (places / 3) ** 2).astype(np.float32)
    blobs = jnp.asarray(np.tile((line[:, None] * line)[None, ..., None], (50, 1, 1, 1)))
    drawn = np.asarray(random_views(blobs, key, Views(stretch=0.5)))[..., 0]
    spreads = []
    for axis in (1, 2):
        weights = drawn.sum(axis=3 - axis)
        spreads.append(np.sqrt((weights * places**2).sum(axis=1) / weights.sum(axis=1)))
    height, width = spreads
    np.testing.assert_allclose(height * width, 9.0, rtol=0.05)
    proportions = np.sqrt(height / width)
    assert 1 / 1.52 < proportions.min() < 0.75 and 1.35 < proportions.max() < 1.52


def test_ink_is_enlarged_to_the_edges_and_keeps_its_proportions(strict_dtypes):
    images = np.full((5, 12, 12, 1), -1.0, np.float32)
    images[0, 3:6, 1:3] = 1.0  # 3 x 2 pixels, four times as large
    images[1] = 0.25  # no more room
    images[2, 11, 11] = 1.0
    images[3, 0:2] = 1.0  # at the edge, and as wide as the image: moved only
    drawn = jnp.asarray(images)
    found = np.asarray(jax.jit(scale_to_ink)(drawn))[..., 0]
    middle = found[0, 6] > 0.0
    assert (found[0, :, 6] > 0.0).sum() == 12 and middle.sum() == 8
    np.testing.assert_array_equal(np.flatnonzero(middle), np.arange(2, 10))
    np.testing.assert_allclose(found[1], 0.25, atol=1e-6)
    assert found[2, 3:9, 3:9].min() > 0.0 and found[2, 0, 0] < 0.0  # fades into the ground
    np.testing.assert_allclose(found[3, 5:7], 1.0)
    np.testing.assert_allclose(np.delete(found[3], (5, 6), axis=0), -1.0)
    np.testing.assert_allclose(found[4], -1.0)
    half = scale_to_ink(drawn.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_impossible_views_are_refused():
    with pytest.raises(ValueError, match="0 or more of each"):
        Views(shift=-1)
    with pytest.raises(ValueError, match="less than 1 for zoom"):
        Views(zoom=1.0)
