"""Encoders in micro-batches give the gradients of the whole batch, in memory that stays flat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.losses import clip_loss, encode_in_micro_batches

DIM, HIDDEN = 6, 16


def encode(params, inputs, key):
    """A small network with dropout."""
    hidden = jnp.tanh(inputs @ params["first"])
    kept = jax.random.bernoulli(key, 0.8, hidden.shape)
    return jnp.where(kept, hidden / 0.8, 0.0) @ params["second"]


def draw_params(random):
    shapes = {"first": (DIM, HIDDEN), "second": (HIDDEN, DIM)}
    return {n: jnp.asarray(random.normal(0, 0.5, s), jnp.float32) for n, s in shapes.items()}


def loss_of(vectors, chunk_size=None):
    queries, docs = vectors
    return jnp.mean(clip_loss(queries, docs, temperature=0.5, chunk_size=chunk_size))


def encode_pairs(params, inputs, key):
    """Both sides; queries and documents have keys of their own."""
    first, second = jax.random.split(key)
    return encode(params, inputs[0], first), encode(params, inputs[1], second)


def test_gradient_is_that_of_the_whole_batch_with_dropout_on(key):
    random = np.random.default_rng(0)
    params = draw_params(random)
    inputs = tuple(jnp.asarray(random.normal(0, 1, (12, DIM)), jnp.float32) for _ in range(2))

    def whole(params):
        """Everything at once, each part of rows under the key that its micro-batch has."""
        parts = []
        for place in range(3):
            rows = tuple(side[place::3] for side in inputs)
            parts.append(encode_pairs(params, rows, jax.random.fold_in(key, place)))
        sides = [jnp.stack(side, axis=1).reshape(12, DIM) for side in zip(*parts, strict=True)]
        return loss_of(sides)

    def cached(params):
        vectors = encode_in_micro_batches(encode_pairs, params, inputs, key, micro_batch=4)
        return loss_of(vectors)

    wanted, got = (jax.value_and_grad(f)(params) for f in (whole, cached))
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)
    for name in params:
        np.testing.assert_allclose(got[1][name], wanted[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.optimized
def test_memory_is_flat_in_the_batch(key):
    """From 256 to 8,192 rows only what is kept a row grows: vectors and their gradients."""
    params = jax.eval_shape(lambda: draw_params(np.random.default_rng(0)))
    params |= {"first": jax.ShapeDtypeStruct((DIM, 4096), jnp.float32)}
    params |= {"second": jax.ShapeDtypeStruct((4096, DIM), jnp.float32)}

    def needed(batch):
        inputs = (jax.ShapeDtypeStruct((batch, DIM), jnp.float32),) * 2

        def loss(params, inputs):
            vectors = encode_in_micro_batches(encode_pairs, params, inputs, key, micro_batch=64)
            return loss_of(vectors, chunk_size=64)

        compiled = jax.jit(jax.grad(loss)).lower(params, inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = needed(256), needed(8192)
    per_row = (large - small) / (8192 - 256)
    assert per_row < 16 * DIM * 4  # 16 vectors of numbers a pair; a hidden layer has 4,096
    assert large < 1.5 * small


def test_rows_that_do_not_divide_are_refused(key):
    inputs = (jnp.zeros((5, DIM)),) * 2
    with pytest.raises(ValueError, match=r"5\] rows in micro-batches of 2"):
        encode_in_micro_batches(encode_pairs, {}, inputs, key, micro_batch=2)
