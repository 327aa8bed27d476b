"""Image towers against formulas and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.nn import ResNet, VisionTransformer, scale_bytes, vision_size
from jaxembed.nn.vision import cut_patches

SMALL = {"image": (4, 6, 3), "patch": 2, "width": 8, "layers": 1, "hidden": 12, "heads": 2}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(0, 1, shape), jnp.float32)


def test_patches_are_cut_row_by_row():
    images = draw(2, 4, 6, 3)
    patches = np.asarray(cut_patches(images, 2))
    for row in range(2):
        for column in range(3):
            wanted = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, 3 * row + column], wanted.reshape(2, -1))


def test_patch_map_is_a_strided_convolution():
    images, kernel = draw(2, 4, 6, 3), draw(2, 2, 3, 5)
    wanted = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = cut_patches(images, 2) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(got, wanted.reshape(2, -1, 5), atol=1e-5)


@pytest.mark.parametrize("pool", ["class", "mean", "attention"])
def test_images_of_a_batch_do_not_see_each_other(pool):
    module, images = VisionTransformer(**SMALL, pool=pool), draw(3, 4, 6, 3)
    variables = draw_params(module, images)
    together = module.apply(variables, images)
    assert together.shape == (3, 8) and together.dtype == jnp.float32
    np.testing.assert_allclose(module.apply(variables, images[1:2]), together[1:2], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_bytes_are_numbers_from_minus_one_to_one():
    grey = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(scale_bytes(jnp.asarray(grey)).ravel(), [-1, 1])
    assert scale_bytes(draw(1, 1, 1, 1)).dtype == jnp.float32


@pytest.mark.parametrize("bottleneck", [True, False])
def test_residual_blocks_start_as_the_identity(bottleneck):
    """At the start each block's last normalisation is 0, so only the shortcuts act."""
    module = ResNet((1, 2), 8, bottleneck, "small")
    images = draw(2, 8, 8, 3)
    variables = draw_params(module, images)
    params = variables["params"]
    last = "norm_2" if bottleneck else "norm_1"
    block = params["stage_1_block_1"]
    block[last] = jax.tree.map(jnp.zeros_like, block[last])
    shorter = ResNet((1, 1), 8, bottleneck, "small")
    fewer = {name: value for name, value in params.items() if name != "stage_1_block_1"}
    got = module.apply(variables, images)
    np.testing.assert_array_equal(got, shorter.apply({"params": fewer}, images))
    assert got.shape == (2, 64 if bottleneck else 16)
    np.testing.assert_allclose(module.apply(variables, images[:1]), got[:1], atol=1e-5)


def test_named_sizes_have_the_papers_number_of_parameters():
    """Millions of weights: 86 of ViT-B/16, table 1 of the paper without heads."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for size, millions in {"B/16": 86}.items():
        module = VisionTransformer(image=(224, 224, 3), **vision_size(size))
        shapes = jax.eval_shape(module.init, jax.random.key(0), image)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert abs(count / 1e6 - millions) < 0.02 * millions
    shapes = jax.eval_shape(ResNet().init, jax.random.key(0), image)
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 - 23.5) < 0.2  # ResNet-50


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="a patch that divides"):
        VisionTransformer(image=(4, 5, 3), patch=2).init(jax.random.key(0), draw(1, 4, 5, 3))
    module = VisionTransformer(**SMALL)
    with pytest.raises(ValueError, match=r"images are \(6, 4, 3\), but the model is for"):
        jax.eval_shape(module.init, jax.random.key(0), draw(1, 6, 4, 3))
    with pytest.raises(ValueError, match="size is 'B'"):
        vision_size("B")
