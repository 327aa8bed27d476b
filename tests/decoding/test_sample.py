"""Samples follow the distribution they are drawn from, whole or cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_models import PENALTIES, as_tuples, make_models

from jaxembed.decoding import greedy_search, sample

pytestmark = pytest.mark.usefixtures("strict_dtypes")
LOGITS = np.log([0.4, 0.3, 0.2, 0.1]).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 0.5, "top_p": 0.54}, [16 / 25, 9 / 25, 0, 0]),
        ({"temperature": 1e-30}, [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_draws_follow_the_cut_distribution(options, wanted, key):
    count = 20_000

    def step(tokens, cache):
        return jnp.broadcast_to(jnp.asarray(LOGITS), (count, 4)), cache

    decoded = sample(step, {}, key, batch_size=count, bos_id=0, eos_id=3, max_len=1, **options)
    shares = np.bincount(np.asarray(decoded.tokens[:, 0, 0]), minlength=4) / count
    # Five standard deviations of the least certain share.
    np.testing.assert_allclose(shares, wanted, atol=5 * 0.5 / count**0.5)
    assert np.all(shares[np.asarray(wanted) == 0] == 0)


def test_scores_are_the_model_s_own_and_draws_ignore_batch_mates(key):
    models = make_models(0, 8, vocab=4, max_len=5)

    def draw(rows, key):
        return models.decode(sample, rows, arrays={"key": key}, temperature=0.7)

    decoded = draw(slice(None), key)
    for item in range(8):
        ((score, tokens, _),) = as_tuples(decoded, item)
        wanted, _ = models.rescored(item, tokens, PENALTIES["none"])
        np.testing.assert_allclose(score, wanted, atol=1e-5)
    few = draw(slice(0, 3), key)
    np.testing.assert_array_equal(few.tokens, decoded.tokens[:3])
    other = draw(slice(None), jax.random.key(1))
    assert np.any(other.tokens != decoded.tokens)


def test_a_low_temperature_is_greedy(key):
    models = make_models(0, 8, vocab=4, max_len=5)
    drawn = models.decode(sample, arrays={"key": key}, temperature=1e-6)
    jax.tree.map(np.testing.assert_array_equal, drawn, models.decode(greedy_search))


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 0}, {"top_k": 5}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_bad_numbers_are_refused(options, key):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is"):
        sample(
            lambda tokens, cache: (jnp.zeros((2, 4)), cache),
            {},
            key,
            batch_size=2,
            bos_id=0,
            eos_id=3,
            max_len=3,
            **options,
        )
