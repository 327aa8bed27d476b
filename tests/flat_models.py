"""Random flat models in which the next token depends on the whole beginning, many to a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from random_params import QUICKLY
from reference.decoding import log_softmax


class Models(NamedTuple):
    """Logits after every beginning of one to a few tokens: `table` [batch, beginnings, vocab]."""

    table: np.ndarray
    eos: int
    max_len: int

    @property
    def bos(self):
        return self.vocab - 1

    @property
    def vocab(self):
        return self.table.shape[2]

    def decode(self, search, rows=slice(None), jit=True, arrays=None, **options):
        """Runs a search on some of the models; options that are arrays go in `arrays`."""
        options = {"bos_id": self.bos, "eos_id": self.eos, "max_len": self.max_len} | options
        run = _jitted if jit else _run
        return run(jnp.asarray(self.table[rows]), arrays or {}, search, tuple(options.items()))

    def log_probs(self, item):
        """A function from a beginning to the log-probabilities after it."""
        values = log_softmax(self.table[item])

        def after(tokens, bos):
            node = 0
            for token in tokens:
                node = node * self.vocab + 1 + token
            return values[node]

        return after

    def rescored(self, item, tokens, penalty):
        """The score of a hypothesis by teacher forcing."""
        after = self.log_probs(item)
        values = [after(tokens[:place], self.bos)[token] for place, token in enumerate(tokens)]
        return sum(values) / penalty(len(tokens)), values


def step(tokens, cache, context):
    batch, _, vocab = context.shape
    node = jnp.where(cache["node"] < 0, 0, cache["node"] * vocab + 1 + tokens)
    items = jnp.arange(len(tokens)) // (len(tokens) // batch)
    return context[items, node], {"node": node}


def _run(table, arrays, search, options):
    cache = {"node": jnp.full(len(table), -1)}
    return search(step, cache, context=table, batch_size=len(table), **arrays, **dict(options))


_jitted = jax.jit(_run, static_argnums=(2, 3), compiler_options=QUICKLY)


def make_models(seed, count, *, vocab, max_len, eos=0, spread=0.3, lift=0.0):
    """Flat models; `lift` makes EOS likelier."""
    beginnings = sum(vocab**length for length in range(max_len))
    table = np.random.default_rng(seed).normal(0, spread, (count, beginnings, vocab))
    table[:, :, eos] += lift
    return Models(table.astype(np.float32), eos, max_len)


PENALTIES = {
    "none": lambda length: 1.0,
    "length": lambda length: float(length),
    "length^0.75": lambda length: length**0.75,
    "length^-0.5": lambda length: length**-0.5,
    "gnmt^0.6": lambda length: ((5 + length) / 6) ** 0.6,
}


def as_tuples(decoded, item):
    """(score, tokens, finished) of the hypotheses of an item."""
    fields = (decoded.scores, decoded.tokens, decoded.lengths, decoded.finished)
    return [
        (float(score), tuple(tokens[:length].tolist()), bool(finished))
        for score, tokens, length, finished in zip(
            *(np.asarray(field[item]) for field in fields), strict=True
        )
        if length > 0
    ]
