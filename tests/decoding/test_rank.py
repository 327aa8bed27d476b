"""The two stages of ranking give what one sort of everything gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxembed.decoding.rank import rank
from jaxembed.decoding.step import IMPOSSIBLE, add_log_probs, log_probs

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def sort_all(totals, logits, count, allowed):
    """By one `top_k`."""
    batch, beam, vocab = logits.shape
    values = jnp.where(allowed, log_probs(logits), IMPOSSIBLE)
    sums = add_log_probs(totals[:, :, None], values).reshape(batch, -1)
    sums, ids = lax.top_k(sums, min(count, beam * vocab))
    return sums, ids // vocab, ids % vocab, jnp.take_along_axis(values.reshape(batch, -1), ids, 1)


# With and without a remainder, with more runs and with fewer than wanted.
@pytest.mark.parametrize("vocab", [1, 2, 7, 128, 130, 131])
def test_ranking_equals_sorting_everything(vocab):
    rng = np.random.default_rng(vocab)
    # Few different values: ties within and across runs and places, and masks of the model's own.
    logits = rng.choice([0.0, 0.5, 1.0, 2.0, -1e9, -np.inf], (40, 3, vocab)).astype(np.float32)
    logits[:2, 1] = [[-np.inf] * vocab, [np.nan] * vocab]
    totals = rng.choice([-1.0, -1.5, IMPOSSIBLE], (40, 3)).astype(np.float32)
    allowed = jnp.asarray(rng.random((40, 1, vocab)) < 0.8)
    run = jax.jit(
        lambda *arrays: (rank(*arrays[:2], 7, arrays[2]), sort_all(*arrays[:2], 7, arrays[2]))
    )
    got, wanted = run(jnp.asarray(totals), jnp.asarray(logits), allowed)
    possible = np.asarray(wanted[0]) > IMPOSSIBLE / 2
    np.testing.assert_array_equal(got.totals, wanted[0])
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(np.where(possible, mine, 0), np.where(possible, theirs, 0))
