"""Text towers: padding reaches nothing, and each pooling is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.nn import BagOfWords, TextTransformer

IDS = jnp.asarray([[3, 1, 4, 1], [5, 9, 2, 6]], jnp.int32)
LENGTHS = jnp.asarray([2, 4], jnp.int32)
SIZES = {"vocab": 10, "width": 8, "layers": 1, "hidden": 12, "heads": 2, "max_length": 6}


@pytest.mark.parametrize(
    ("pool", "causal"), [("last", True), ("class", False), ("mean", False), ("attention", False)]
)
def test_padding_does_not_reach_the_result(pool, causal):
    module = TextTransformer(**SIZES, pool=pool, causal=causal, outputs=5)
    variables = draw_params(module, IDS, LENGTHS)
    got = module.apply(variables, IDS, LENGTHS)
    longer = jnp.pad(IDS, ((0, 0), (0, 2)), constant_values=7).at[0, 2:4].set(8)
    np.testing.assert_allclose(module.apply(variables, longer, LENGTHS), got, atol=1e-5)
    assert got.shape == (2, 5) and np.abs(got[0] - got[1]).max() > 1e-3


def test_causal_tower_does_not_look_ahead():
    module = TextTransformer(**SIZES, causal=True, pool="class")
    variables = draw_params(module, IDS, LENGTHS)
    got, again = (module.apply(variables, ids, LENGTHS) for ids in (IDS, IDS.at[:, 1:].set(0)))
    np.testing.assert_allclose(got, again, atol=1e-6)


def test_bag_of_words_is_the_mean_of_its_vectors():
    module = BagOfWords(10, 4)
    variables = draw_params(module, IDS, LENGTHS)
    table = np.asarray(variables["params"]["embedding"]["embedding"])
    wanted = [table[ids[:length]].mean(0) for ids, length in zip(IDS, LENGTHS, strict=True)]
    np.testing.assert_allclose(module.apply(variables, IDS, LENGTHS), wanted, atol=1e-6)


def test_bad_texts_are_named():
    with pytest.raises(ValueError, match="max_length is 6"):
        ids = jnp.zeros((1, 7), jnp.int32)
        jax.eval_shape(TextTransformer(**SIZES).init, jax.random.key(0), ids, LENGTHS[:1])
    with pytest.raises(ValueError, match="layers is 0"):
        bare = TextTransformer(**SIZES | {"layers": 0})
        jax.eval_shape(bare.init, jax.random.key(0), IDS, LENGTHS)
    for module in (TextTransformer(), BagOfWords()):
        with pytest.raises(ValueError, match="vocab is 0"):
            jax.eval_shape(module.init, jax.random.key(0), IDS, LENGTHS)
