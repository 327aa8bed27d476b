"""Greedy search against a loop."""

import numpy as np
import pytest
from flat_models import as_tuples, make_models

from jaxembed.decoding import exhaustive_search, greedy_search

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_greedy_equals_a_loop_and_knows_when_it_is_optimal():
    models = make_models(0, 60, vocab=4, max_len=5, lift=0.7, spread=0.6)
    decoded = models.decode(greedy_search)
    best = models.decode(exhaustive_search, vocab_size=4)
    for item in range(60):
        after, tokens = models.log_probs(item), ()
        while len(tokens) < 5 and models.eos not in tokens:
            tokens += (int(np.argmax(after(tokens, models.bos))),)
        wanted, values = models.rescored(item, tokens, lambda length: 1.0)
        ((score, found, finished),) = as_tuples(decoded, item)
        assert found == tokens and finished == (tokens[-1] == models.eos)
        np.testing.assert_allclose(score, wanted, atol=1e-5)
        np.testing.assert_allclose(decoded.log_probs[item, 0, : len(values)], values, atol=1e-5)
    is_best = np.all(np.asarray(decoded.tokens) == np.asarray(best.tokens), axis=(1, 2))
    assert np.all(is_best[np.asarray(decoded.optimal)])
    assert 0.9 * np.sum(np.asarray(is_best)) < np.sum(np.asarray(decoded.optimal)) < 60


def test_a_batch_gives_what_its_items_give_alone():
    models = make_models(1, 16, vocab=5, max_len=4)
    together = models.decode(greedy_search)
    for item in (0, 15):
        alone = models.decode(greedy_search, [item])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[item])


def test_bad_numbers_are_refused():
    models = make_models(0, 2, vocab=4, max_len=4)
    for options, message in [({"max_len": 0}, "max_len is 0"), ({"bos_id": -1}, "bos_id is -1")]:
        with pytest.raises(ValueError, match=message):
            models.decode(greedy_search, **options)
