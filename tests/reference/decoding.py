"""Every sequence of a small model, scored one by one, and beam search as it is defined."""

import numpy as np


def all_hypotheses(table, *, bos, eos, max_len, penalty, min_len=0, forbidden=(), first=None):
    """(score, tokens, finished) of every complete sequence; `table` [vocab, ..] as in `Model`."""
    complete = []
    live = [(0.0, ())]
    for length in range(1, max_len + 1):
        longer = []
        for total, tokens in live:
            for token, value in enumerate(table(tokens, bos)):
                if token in forbidden or (length == 1 and first not in (None, token)):
                    continue
                if token == eos:
                    if length >= min_len:
                        complete.append(((total + value) / penalty(length), (*tokens, eos), True))
                else:
                    longer.append((total + value, (*tokens, token)))
        live = longer
    complete += [(total / penalty(max_len), tokens, False) for total, tokens in live]
    return sorted(complete, key=lambda hypothesis: -hypothesis[0])


def beam(table, *, bos, eos, max_len, size, penalty, is_done):
    """The definition of beam search in the shortest loop; `is_done` stops."""
    pool, live, completed, led = [], [(0.0, ())], 0, False
    for length in range(1, max_len + 1):
        ranked = sorted(
            (
                (total + value, (*tokens, token))
                for total, tokens in live
                for token, value in enumerate(table(tokens, bos))
            ),
            key=lambda candidate: -candidate[0],
        )
        for total, tokens in ranked[:size]:
            if tokens[-1] == eos or length == max_len:
                pool.append((total / penalty(length), tokens, tokens[-1] == eos))
                completed += 1
                led = led or tokens == ranked[0][1]
        pool = sorted(pool, key=lambda hypothesis: -hypothesis[0])[:size]
        live = [candidate for candidate in ranked if candidate[1][-1] != eos][:size]
        if length == max_len or is_done(pool, live[0][0], length, completed, led):
            break
    return pool


def log_softmax(logits):
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
