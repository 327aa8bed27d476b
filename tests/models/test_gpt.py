"""GPT: what follows changes nothing before it, and steps equal whole sequences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY, draw_params

from jaxembed.decoding import beam_search, exhaustive_search, greedy_search, sample
from jaxembed.models import Gpt

MODEL = Gpt(7, width=8, heads=2, hidden=16, layers=2, max_length=12)
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 7, (3, 6)), jnp.int32)
LENGTHS = jnp.asarray([6, 3, 1], jnp.int32)
EOS, MOST = 0, 3


@pytest.fixture(scope="module")
def variables():
    return draw_params(MODEL, IDS)


def run(function, *arguments):
    return jax.jit(function, compiler_options=QUICKLY)(*arguments)


def states_of(variables, ids):
    return run(functools.partial(MODEL.apply, method="hidden_states"), variables, ids)


def test_a_prefix_does_not_see_what_follows(variables):
    whole = states_of(variables, IDS)
    changed = states_of(variables, IDS.at[:, 4:].set(2))
    assert len(whole) == MODEL.layers + 1
    for one, other in zip(whole, changed, strict=True):
        np.testing.assert_array_equal(one[:, :4], other[:, :4])
        assert np.abs(one[:, 4:] - other[:, 4:]).max() > 1e-3


def test_steps_equal_the_whole_sequence(variables):
    def by_steps(variables, ids):
        cache = MODEL.apply(variables, 3, 6, method="start_cache")

        def step(cache, tokens):
            logits, cache = MODEL.apply(variables, tokens, cache, method="decode_step")
            return cache, logits

        return jax.lax.scan(step, cache, ids.T)[1].swapaxes(0, 1)

    whole = run(MODEL.apply, variables, IDS)
    np.testing.assert_allclose(run(by_steps, variables, IDS), whole, atol=1e-5)


def continuation(search, variables, **options):
    """What a decoder writes behind prompts of three lengths."""

    def go(variables):
        cache = MODEL.apply(variables, IDS, LENGTHS, max_len=10, method="read_prompt")

        def step(tokens, cache):
            return MODEL.apply(variables, tokens, cache, method="decode_step")

        return search(step, cache, batch_size=3, bos_id=6, eos_id=EOS, max_len=MOST, **options)

    return run(go, variables)


def log_probs(variables, tokens):
    """Of each token behind each prompt, by whole sequences."""
    joined = np.zeros((3, 6 + MOST), np.int32)
    for row, length in enumerate(LENGTHS):
        joined[row, :length] = IDS[row, :length]
        joined[row, length : length + MOST] = tokens[row]
    logits = jax.nn.log_softmax(run(MODEL.apply, variables, jnp.asarray(joined)))
    places = np.asarray(LENGTHS)[:, None] - 1 + np.arange(MOST)
    return np.asarray(logits)[np.arange(3)[:, None], places]


def test_greedy_search_continues_each_prompt(variables):
    found = continuation(greedy_search, variables)
    tokens = np.asarray(found.tokens)[:, 0]
    wanted = log_probs(variables, tokens).argmax(-1)
    for row in range(3):
        length = int(found.lengths[row, 0])
        assert tokens[row, :length].tolist() == wanted[row, :length].tolist()


def test_beam_search_finds_the_best_continuation(variables):
    found = continuation(beam_search, variables, beam_size=7**2)
    best = continuation(exhaustive_search, variables, vocab_size=7)
    np.testing.assert_allclose(found.scores[:, 0], best.scores[:, 0], atol=1e-5)
    np.testing.assert_array_equal(found.tokens[:, 0], best.tokens[:, 0])


def test_samples_are_scored_as_by_whole_sequences(variables):
    found = continuation(sample, variables, key=jax.random.key(1))
    tokens = np.asarray(found.tokens)[:, 0]
    scores = np.take_along_axis(log_probs(variables, tokens), tokens[..., None], -1)[..., 0]
    for row in range(3):
        length = int(found.lengths[row, 0])
        np.testing.assert_allclose(found.scores[row, 0], scores[row, :length].sum(), atol=1e-4)


def test_there_must_be_room(variables):
    with pytest.raises(ValueError, match="13 tokens, but the model's max_length is 12"):
        MODEL.apply(variables, 3, 13, method="start_cache")
    with pytest.raises(ValueError, match="prompt of 6 tokens has no room in max_len 5"):
        MODEL.apply(variables, IDS, LENGTHS, max_len=5, method="read_prompt")
