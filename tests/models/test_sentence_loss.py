"""Losses of sentence vectors, by hand and on what they should learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY, draw_params

from jaxembed.models import (
    Bert,
    SimilarityHead,
    make_regression_loss,
    make_sentence_pair_loss,
    sentence_vectors,
)

MODEL = Bert(
    13, width=8, heads=2, hidden=16, layers=1, max_length=12, dropout=0.0, attention_dropout=0.0
)  # fmt: skip
HEAD = SimilarityHead(4)


def make_batch():
    draw = np.random.default_rng(0)
    batch = {
        "first": draw.integers(1, 13, (4, 6)),
        "second": draw.integers(1, 13, (4, 6)),
        "first_length": np.array([6, 3, 2, 0]),
        "second_length": np.array([1, 5, 6, 0]),
    }
    batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
    scores = jnp.asarray([0.2, 1.0, 0.0, 0.0])
    return batch | {"score": scores, "mask": jnp.asarray([True, True, True, False])}


@pytest.fixture(scope="module")
def params():
    encoder = draw_params(MODEL, make_batch()["first"])["params"]
    head = draw_params(HEAD, jnp.ones((1, 8)), jnp.ones((1, 8)))["params"]
    return {"encoder": encoder, "head": head}


@pytest.fixture(scope="module")
def vectors(params):
    """Of both sides, one sentence at a time and without padding."""
    batch, found = make_batch(), []
    for side in ("first", "second"):
        for row in range(3):
            length = int(batch[f"{side}_length"][row])
            ids = batch[side][row : row + 1, :length]
            states = MODEL.apply({"params": params["encoder"]}, ids).hidden_states
            mean = np.float64(states[-1][0]).mean(axis=0)
            found.append(mean / np.linalg.norm(mean))
    return np.array(found).reshape(2, 3, 8)


def test_vectors_are_unit_means_and_filled_rows_are_finite(params, vectors):
    batch = make_batch()
    made = sentence_vectors(MODEL, params["encoder"], batch["first"], batch["first_length"])
    np.testing.assert_allclose(made[:3], vectors[0], atol=1e-5)
    assert not np.asarray(made[3]).any()


def test_contrastive_loss_is_cross_entropy_both_ways(params, vectors, key):
    cosines = vectors[0] @ vectors[1].T / 0.1
    by_row = np.log(np.exp(cosines).sum(axis=1)) - np.diag(cosines)
    by_column = np.log(np.exp(cosines).sum(axis=0)) - np.diag(cosines)
    loss_fn = jax.jit(make_sentence_pair_loss(MODEL, temperature=0.1), compiler_options=QUICKLY)
    loss, metrics = loss_fn(params, make_batch(), key)
    np.testing.assert_allclose(loss, (by_row + by_column).mean() / 2, rtol=1e-4)
    assert metrics["loss"][1] == 3


def test_regression_loss_is_the_squared_error_and_its_gradient_is_finite(params, vectors, key):
    batch = make_batch()
    scores = HEAD.apply({"params": params["head"]}, *map(jnp.float32, vectors))
    swapped = HEAD.apply({"params": params["head"]}, *map(jnp.float32, vectors[::-1]))
    np.testing.assert_allclose(scores, swapped, atol=1e-6)
    assert np.all((scores > 0) & (scores < 1))
    gradient_fn = jax.value_and_grad(make_regression_loss(MODEL, HEAD), has_aux=True)
    (loss, _), gradients = jax.jit(gradient_fn, compiler_options=QUICKLY)(params, batch, key)
    np.testing.assert_allclose(loss, np.mean((scores - batch["score"][:3]) ** 2), rtol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
