"""Length penalties by name."""

import re

import numpy as np
from jaxtyping import Float32

_GRAMMAR = re.compile(r"(?P<kind>length|gnmt)(?:\^(?P<power>-?(?:\d+\.?\d*|\.\d+)))?")


def penalty_table(name: str, max_len: int) -> Float32[np.ndarray, "lengths"]:
    """The divisors of the summed log-probabilities of hypotheses of 0 to `max_len` tokens.

    Args:
        name: "none"; "length^A" for L^A, where A = 1 is the mean log-probability; "gnmt^A" for
            ((5 + L) / 6)^A. A is a number, 1 where it is left out; the more it is, the better for
            long hypotheses. L counts EOS.
        max_len: The longest length.

    Returns:
        Positive divisors, rising with the length, or falling if A < 0.

    Raises:
        ValueError: If there is no penalty of that name, or a divisor does not fit float32.

    Reference: Wu et al., 2016, https://arxiv.org/abs/1609.08144, eq. 14.
    """
    lengths = np.arange(max_len + 1, dtype=np.float64)
    if name == "none":
        return np.ones(max_len + 1, np.float32)
    parts = _GRAMMAR.fullmatch(name)
    if parts is None:
        raise ValueError(
            f"Unknown length penalty {name!r}: write none, length^A or gnmt^A with a number A, "
            "for example length^0.75."
        )
    base = np.maximum(lengths, 1) if parts["kind"] == "length" else (5 + lengths) / 6
    with np.errstate(over="ignore", under="ignore"):
        table = (base ** float(parts["power"] or 1)).astype(np.float32)
    if not (np.isfinite(table).all() and (table > np.finfo(np.float32).tiny).all()):
        raise ValueError(
            f"Length penalty {name!r} at {max_len} tokens does not fit float32: take a power "
            "nearer to 0."
        )
    return table
