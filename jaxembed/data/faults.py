"""What is wrong with data: named and refused, or named, counted and skipped, never passed over."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

LOGGER = logging.getLogger("jaxembed")
OnBad = Literal["refuse", "skip"]


class Faults:
    """Things found wrong while data are read.

    Attributes:
        counts: How many of each kind were skipped.
        first: The first message of each kind.
    """

    def __init__(self, source: str, on_bad: OnBad) -> None:
        if on_bad not in ("refuse", "skip"):
            raise ValueError(f"on_bad is {on_bad!r}: give 'refuse' or 'skip'.")
        self._source, self._on_bad = source, on_bad
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def report(self, kind: str, message: str) -> None:
        """Refuses or counts one thing that is wrong.

        Args:
            kind: What sort of thing, in the plural: "empty captions".
            message: Which one it is and what is wrong with it, without a full stop.

        Raises:
            ValueError: If bad data are refused.
        """
        if self._on_bad == "refuse":
            raise ValueError(
                f"{message}: mend or remove it, or skip what is bad with data.on_bad skip."
            )
        self.counts[kind] += 1
        self.first.setdefault(kind, message)

    def finish(self, kept: int) -> dict[str, int]:
        """Logs what was skipped.

        Args:
            kept: How many items are left.

        Returns:
            How many of each kind were skipped.

        Raises:
            ValueError: If nothing is left.
        """
        for kind, count in self.counts.items():
            message = self.first[kind]
            LOGGER.warning("%s: %d %s skipped, first: %s.", self._source, count, kind, message)
        if not kept:
            found = "; ".join(
                f"{self.counts[kind]} {kind}, first: {self.first[kind]}" for kind in self.counts
            )
            raise ValueError(f"{self._source} has nothing to use: {found or 'it is empty'}.")
        return dict(self.counts)


def check_text(text: str, longest: int, what: str, where: str, faults: Faults) -> str | None:
    """Looks at a text that somebody gave.

    Args:
        text: The text.
        longest: Most characters that it may have.
        what: What it is, such as "caption".
        where: Which it is, such as "captions.csv, line 3".
        faults: Hears of what is wrong.

    Returns:
        The text without white space around it; None if it is empty or too long.
    """
    text = " ".join(text.split())
    if not text:
        faults.report(f"empty {what}s", f"{where}: the {what} is empty")
        return None
    if len(text) > longest:
        faults.report(
            f"too long {what}s",
            f"{where}: the {what} has {len(text)} characters, more than data.longest {longest}",
        )
        return None
    return text
