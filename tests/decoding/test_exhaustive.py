"""Exhaustive search against an enumeration in plain Python."""

import numpy as np
import pytest
import reference.decoding as reference
from flat_models import PENALTIES, as_tuples, make_models

from jaxembed.decoding import Shared, exhaustive_search

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize(
    ("vocab", "max_len", "penalty"),
    [(3, 4, "length^0.75"), (4, 3, "none"), (2, 1, "length"), (1, 3, "none")],
)
def test_exhaustive_search_equals_enumeration(vocab, max_len, penalty):
    models = make_models(0, 6, vocab=vocab, max_len=max_len)
    decoded = models.decode(exhaustive_search, vocab_size=vocab, length_penalty=penalty, n_best=5)
    for item in range(6):
        wanted = reference.all_hypotheses(
            models.log_probs(item),
            bos=models.bos,
            eos=models.eos,
            max_len=max_len,
            penalty=PENALTIES[penalty],
        )[:5]
        found = as_tuples(decoded, item)
        assert [h[1:] for h in found] == [h[1:] for h in wanted]
        np.testing.assert_allclose([h[0] for h in found], [h[0] for h in wanted], atol=1e-5)


def test_a_cache_with_shared_parts_is_refused():
    options = {"batch_size": 1, "vocab_size": 2, "bos_id": 1, "eos_id": 0, "max_len": 2}
    with pytest.raises(ValueError, match="has Shared parts"):
        exhaustive_search(lambda t, c: (c["a"], c), {"a": Shared(np.zeros((1, 2)))}, **options)


def test_more_than_a_million_sequences_are_refused():
    models = make_models(0, 1, vocab=7, max_len=2)
    with pytest.raises(ValueError, match="10 tokens and 7 steps make 5,380,840 sequences"):
        models.decode(exhaustive_search, vocab_size=10, max_len=7)
    with pytest.raises(ValueError, match="vocab_size is 5, but step_fn has logits for 7"):
        models.decode(exhaustive_search, vocab_size=5)
