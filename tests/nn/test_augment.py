"""Views of images against what they mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.nn import Views, random_views
from jaxembed.nn.augment import _resample, _weights

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 6, 5, 2)), jnp.float32)


def test_whole_shifts_move_pixels_and_repeat_the_edge():
    shift, zoom = jnp.asarray([1.0, 0.0, -2.0]), jnp.ones(3)
    moved = np.asarray(_resample(IMAGES, _weights(6, shift, zoom), "byi,bihc->byhc"))
    images = np.asarray(IMAGES)
    np.testing.assert_allclose(moved[0, :-1], images[0, 1:], atol=1e-6)
    np.testing.assert_allclose(moved[0, -1], images[0, -1], atol=1e-6)
    np.testing.assert_allclose(moved[1], images[1], atol=1e-6)
    np.testing.assert_allclose(moved[2, 2:], images[2, :-2], atol=1e-6)


def test_views_stay_within_their_limits_and_differ(key):
    assert random_views(IMAGES, key, Views()) is IMAGES
    draw = jax.jit(random_views, static_argnums=2)
    views = Views(shift=1, zoom=0.2, contrast=0.5)
    first, second = (draw(IMAGES, jax.random.key(seed), views) for seed in (0, 1))
    assert np.abs(first).max() <= 1.5 and np.abs(first - second).max() > 1e-2
    flat = draw(jnp.full(IMAGES.shape, 0.5), key, Views(shift=1, zoom=0.2))
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)  # each row of weights sums to 1
    noisy = draw(jnp.zeros((64, 8, 8, 1)), key, Views(noise=0.1))
    assert abs(float(np.std(noisy)) - 0.1) < 0.01


def test_impossible_views_are_refused():
    with pytest.raises(ValueError, match="0 or more of each"):
        Views(shift=-1)
    with pytest.raises(ValueError, match="less than 1 for zoom"):
        Views(zoom=1.0)
