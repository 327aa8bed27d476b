"""The loss of pre-training, against the same by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY, draw_params

from jaxembed.models import Bert, make_pretraining_loss, predict_masked

SMALL = {"width": 8, "heads": 2, "hidden": 16, "layers": 1, "max_length": 12}
MODEL = Bert(13, word_head=True, next_head=True, dropout=0.0, attention_dropout=0.0, **SMALL)
LENGTH = 8


def make_batch():
    draw = np.random.default_rng(0)
    batch = {
        "ids": draw.integers(5, 13, (4, LENGTH)).astype(np.int32),
        "segments": (np.arange(LENGTH) >= 3).astype(np.int32) * np.ones((4, 1), np.int32),
        "length": np.int32([8, 6, 5, 0]),
        "places": np.int32([[1, 4, 6], [2, 0, 0], [1, 3, 0], [0, 0, 0]]),
        "targets": np.int32([[5, 6, 7], [8, -1, -1], [9, 10, -1], [0, 0, 0]]),
        "next": np.int32([0, 1, 1, 0]),
        "mask": np.array([True, True, True, False]),
    }
    return {name: jnp.asarray(array) for name, array in batch.items()}


@pytest.fixture(scope="module")
def variables():
    return draw_params(MODEL, make_batch()["ids"])


@pytest.fixture(scope="module")
def loss_fn():
    return jax.jit(make_pretraining_loss(MODEL), compiler_options=QUICKLY)


def test_loss_and_metrics_are_means_over_targets_and_over_pairs(variables, loss_fn, key):
    batch = make_batch()
    loss, metrics = loss_fn(variables["params"], batch, key)
    mask = jnp.arange(LENGTH)[None] < batch["length"][:, None]
    output = MODEL.apply(variables, batch["ids"], mask, batch["segments"])
    words = np.float64(jax.nn.log_softmax(output.word_logits))
    followed = np.float64(jax.nn.log_softmax(output.next_logits))
    word_losses, right, next_losses, next_right = [], [], [], []
    for row in range(3):
        next_losses.append(-followed[row, batch["next"][row]])
        next_right.append(followed[row].argmax() == batch["next"][row])
        for place, target in zip(batch["places"][row], batch["targets"][row], strict=True):
            if target >= 0:
                word_losses.append(-words[row, place, target])
                right.append(words[row, place].argmax() == target)
    wanted = {
        "word_loss": (sum(word_losses), 6),
        "word_accuracy": (sum(right), 6),
        "next_loss": (sum(next_losses), 3),
        "next_accuracy": (sum(next_right), 3),
    }
    assert metrics.keys() == wanted.keys()
    for name, (total, count) in wanted.items():
        np.testing.assert_allclose(metrics[name][0], total, rtol=1e-5)
        assert metrics[name][1] == count
    np.testing.assert_allclose(loss, np.mean(word_losses) + np.mean(next_losses), rtol=1e-5)
    word_logits, next_logits = predict_masked(MODEL, variables["params"], batch)
    at_places = np.take_along_axis(output.word_logits, batch["places"][..., None], 1)
    np.testing.assert_allclose(word_logits[:3], at_places[:3], atol=1e-5)
    np.testing.assert_allclose(next_logits[:3], output.next_logits[:3], atol=1e-5)


def test_what_fills_up_changes_nothing_and_gradients_are_finite(variables, loss_fn, key):
    batch = make_batch()
    other = {name: np.array(array) for name, array in batch.items()}
    other["ids"][3], other["targets"][3], other["next"][3] = 7, 12, 1
    other["ids"][1, 6:], other["places"][1, 1:] = 9, 5
    values = [loss_fn(variables["params"], one, key)[0] for one in (batch, other)]
    np.testing.assert_allclose(*values, rtol=1e-6)
    empty = batch | {"mask": jnp.zeros(4, bool)}
    gradient_fn = jax.grad(make_pretraining_loss(MODEL), has_aux=True)
    gradients, _ = jax.jit(gradient_fn, compiler_options=QUICKLY)(variables["params"], empty, key)
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(gradients))


def test_a_model_without_the_heads_is_refused(key):
    with pytest.raises(ValueError, match="no word_head"):
        make_pretraining_loss(Bert(13, **SMALL))
    lone = Bert(13, word_head=True, **SMALL)
    variables = draw_params(lone, make_batch()["ids"])
    with pytest.raises(ValueError, match="give the model a next_head"):
        jax.eval_shape(make_pretraining_loss(lone), variables["params"], make_batch(), key)
