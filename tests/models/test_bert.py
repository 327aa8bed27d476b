"""BERT: padding changes nothing, heads are tied as they should be, and it knows its limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY, draw_params

from jaxembed.models import Bert

pytestmark = pytest.mark.usefixtures("strict_dtypes")
SMALL = {"width": 8, "heads": 2, "hidden": 16, "layers": 2, "max_length": 12}
MODEL = Bert(13, word_head=True, next_head=True, **SMALL)
LENGTHS = np.asarray([6, 3, 1])
MASK = jnp.asarray(np.arange(6)[None] < LENGTHS[:, None])
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (3, 6)), jnp.int32)
SEGMENTS = jnp.asarray(np.arange(6)[None] >= 2, jnp.int32) * jnp.ones((3, 1), jnp.int32)


@pytest.fixture(scope="module")
def variables():
    return draw_params(MODEL, IDS)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(MODEL.apply, compiler_options=QUICKLY)


def test_what_padding_holds_and_how_long_it_is_changes_nothing(variables, apply):
    whole = apply(variables, IDS, MASK, SEGMENTS)
    changed = apply(variables, jnp.where(MASK, IDS, 5), MASK, SEGMENTS)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(changed), strict=True):
        if one.ndim == 3:
            one, other = np.asarray(one)[np.asarray(MASK)], np.asarray(other)[np.asarray(MASK)]
        np.testing.assert_array_equal(one, other)
    alone = apply(variables, IDS[1:2, :3], None, SEGMENTS[1:2, :3])
    for one, other in zip(whole.hidden_states, alone.hidden_states, strict=True):
        np.testing.assert_allclose(one[1, :3], other[0], atol=1e-5)
    assert len(whole.hidden_states) == MODEL.layers + 1


def test_heads_equal_their_formulas(variables, apply):
    output = apply(variables, IDS, MASK, SEGMENTS)
    p = jax.tree.map(np.float64, variables["params"])

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    last = np.float64(output.hidden_states[-1])
    pooled = np.tanh(dense("pooling", last[:, 0]))
    np.testing.assert_allclose(output.pooled, pooled, atol=1e-5)
    np.testing.assert_allclose(output.next_logits, dense("next_sentence", pooled), atol=1e-5)
    x = np.asarray(jax.nn.gelu(jnp.float32(dense("word_transform", last)), approximate=False))
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    x = x * p["word_norm"]["scale"] + p["word_norm"]["bias"]
    wanted = x @ p["words"]["embedding"].T + p["word_bias"]
    np.testing.assert_allclose(output.word_logits, wanted, atol=1e-4)


def test_segments_count(variables, apply):
    one = apply(variables, IDS, MASK, SEGMENTS).pooled
    other = apply(variables, IDS, MASK, jnp.zeros_like(SEGMENTS)).pooled
    assert np.abs(one - other).max() > 1e-3


def test_bfloat16_is_near_and_keeps_its_parameters(variables, apply):
    rough = dataclasses.replace(MODEL, dtype="bfloat16")
    with jax.numpy_dtype_promotion("standard"):  # linen's normalisation promotes
        shapes = jax.eval_shape(lambda: rough.init(jax.random.key(0), IDS))
        got = jax.jit(rough.apply, compiler_options=QUICKLY)(variables, IDS, MASK, SEGMENTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert got.hidden_states[-1].dtype == jnp.bfloat16
    wanted = apply(variables, IDS, MASK, SEGMENTS).hidden_states[-1]
    errors = np.abs(np.float32(got.hidden_states[-1]) - wanted)[np.asarray(MASK)]
    assert errors.max() < 0.1  # 8 bits of values up to 2, through two layers


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (MODEL, (jnp.zeros((1, 13), jnp.int32),), "13 tokens, but the model's max_length is 12"),
        (Bert(13, segments=1, **SMALL), (IDS, MASK, SEGMENTS), "knows 1 segments"),
        (Bert(13, pooler=False, next_head=True, **SMALL), (IDS,), "next_head reads the pooler"),
    ],
)
def test_misuse_is_explained(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
