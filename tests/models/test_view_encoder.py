import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.losses import clip_loss
from jaxembed.models import TwoViews, ViewEncoder, make_view, make_view_loss

MODEL = ViewEncoder(shape=(6, 6), channels=(4,), dim=5, projection=3)
IMAGES = jnp.asarray(np.random.default_rng(0).random((6, 6, 6), np.float32))
VIEWS = TwoViews(temperature=0.5)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), IMAGES)["params"]


def test_projections_have_length_one_and_codes_their_size(params):
    projected = MODEL.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1.0, rtol=1e-5)
    assert MODEL.apply({"params": params}, IMAGES, method="encode").shape == (6, 5)


def test_loss_is_that_of_two_views_drawn_by_its_key(params):
    key = jax.random.key(7)
    batch = {"x": IMAGES, "mask": jnp.arange(6) < 4}
    loss_fn = make_view_loss(MODEL, VIEWS)
    loss, metrics = loss_fn(params, batch, key)
    first, second = (
        MODEL.apply({"params": params}, make_view(IMAGES, one, VIEWS))[:4]
        for one in jax.random.split(key)
    )
    wanted = clip_loss(first, second, temperature=0.5)
    np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-5)
    total, count = metrics["accuracy"]
    right = np.argmax(first @ second.T, axis=1) == np.arange(4)
    assert (float(total), float(count)) == (right.sum(), 4)


def test_masked_rows_change_nothing(params):
    loss_fn = jax.jit(jax.value_and_grad(make_view_loss(MODEL, VIEWS), has_aux=True))
    mask = jnp.arange(6) < 4
    results = [
        loss_fn(params, {"x": images, "mask": mask}, jax.random.key(1))
        for images in (IMAGES, jnp.where(mask[:, None, None], IMAGES, 0.25))
    ]
    for first, second in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[0]))


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"smallest_crop": 1.5}, {"shift": -1}, {"noise": -0.1}]
)
def test_wrong_views_are_explained(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}( is|) -?[0-9]"):
        TwoViews(**wrong)
