"""What every decoder returns."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float32, Int32


class Decoded(NamedTuple):
    """Hypotheses of each item of a batch, best first.

    A hypothesis is complete: it ends with EOS, or was cut at the longest length allowed. Where an
    item has fewer hypotheses than there are slots, the last slots have length 0 and score -1e9.

    Attributes:
        tokens: Token ids without BOS, with EOS where there is one, and 0 behind the end.
        scores: Sum of the log-probabilities in nats over the length penalty, falling.
        log_probs: Log-probability of each token given those before it, in nats; 0 behind the end.
        lengths: Number of tokens; EOS counts, BOS does not.
        finished: True where the hypothesis ends with EOS.
        optimal: True where no other hypothesis, live or pruned, could score higher: the first one
            is then a best one of all sequences. False says nothing.
    """

    tokens: Int32[Array, "batch beam length"]
    scores: Float32[Array, "batch beam"]
    log_probs: Float32[Array, "batch beam length"]
    lengths: Int32[Array, "batch beam"]
    finished: Bool[Array, "batch beam"]
    optimal: Bool[Array, "batch"]
