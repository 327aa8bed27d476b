"""Guesses at a hidden word from how often words stand beside each other: what models must beat."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int, Int64


@dataclasses.dataclass(frozen=True)
class Bigrams:
    """How often words, and pairs of neighbours, occur in a text.

    Attributes:
        counts: Of each word.
        pairs: A sparse matrix; row a, column b counts a followed by b.
    """

    counts: Int64[np.ndarray, "vocab"]
    pairs: Any

    def most_frequent(self) -> int:
        """The best guess that looks at nothing."""
        return int(self.counts.argmax())

    def guess_after(self, before: Int[np.ndarray, "places"]) -> Int64[np.ndarray, "places"]:
        """The word that follows most often; the most frequent word behind what nothing follows."""
        best = {int(word): self._follower(int(word)) for word in np.unique(before)}
        return np.array([best[int(word)] for word in before], np.int64)

    def guess_between(
        self, before: Int[np.ndarray, "places"], after: Int[np.ndarray, "places"]
    ) -> Int64[np.ndarray, "places"]:
        """The word w with the greatest count(before, w) count(w, after) / count(w).

        That is the likeliest of a first-order chain. Where no word was seen between the two, the
        one most often behind the first.
        """
        columns = self.pairs.tocsc()
        best: dict[tuple[int, int], int] = {}
        for first, last in zip(before.tolist(), after.tolist(), strict=True):
            if (first, last) in best:
                continue
            row = self.pairs[[first]].tocoo()
            part = columns[:, [last]].tocoo()
            leads = np.zeros(len(self.counts))
            leads[part.row] = part.data
            scores = row.data * leads[row.col] / self.counts[row.col]
            is_seen = len(scores) and scores.max() > 0
            best[first, last] = int(row.col[scores.argmax()]) if is_seen else self._follower(first)
        pairs = zip(before.tolist(), after.tolist(), strict=True)
        return np.array([best[pair] for pair in pairs], np.int64)

    def _follower(self, word: int) -> int:
        row = self.pairs[[word]].tocoo()
        return int(row.col[np.argmax(row.data)]) if len(row.col) else self.most_frequent()


def count_bigrams(ids: Int[np.ndarray, "words"], vocab: int) -> Bigrams:
    """Counts words and neighbours.

    Args:
        ids: A text, each id from 0 to `vocab` - 1.
        vocab: Number of words.

    Returns:
        The counts.

    Raises:
        ValueError: If the text is empty or an id out of range.
    """
    import scipy.sparse

    if not len(ids) or ids.min() < 0 or ids.max() >= vocab:
        raise ValueError(f"a text of {len(ids)} ids: give one or more, each of {vocab} words.")
    ones = np.ones(len(ids) - 1, np.int64)
    pairs = scipy.sparse.coo_array((ones, (ids[:-1], ids[1:])), shape=(vocab, vocab)).tocsr()
    pairs.sort_indices()
    return Bigrams(np.bincount(ids, minlength=vocab), pairs)
