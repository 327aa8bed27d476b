"""Pairs as sources of batches, alone or with documents that are known to be wrong."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np


class PairRows:
    """Pairs one by one as fields of a batch.

    Attributes:
        fields: Arrays with a row a pair.
        images: What the queries are, uint8 [images, height, width, channels]; None for texts.
        rows: The image of each pair.
    """

    def __init__(
        self, fields: dict[str, np.ndarray], images: np.ndarray | None, rows: np.ndarray
    ) -> None:
        """Keeps them."""
        self.fields, self.images, self.rows = fields, images, rows

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.fields["ids"])

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """The fields of a pair."""
        fields = {name: np.asarray(values[row]) for name, values in self.fields.items()}
        if self.images is not None:
            fields["query_pixels"] = self.images[self.rows[row]]
        return fields


class RowsWithNegatives:
    """The pairs of all epochs in their order, each time with others of their hard negatives.

    What stands at a place is decided by the seed and the place alone, so a run resumes anywhere. A
    pair with fewer negatives than wanted repeats them; one without any takes those of others.
    """

    def __init__(
        self,
        pairs: PairRows,
        ids: np.ndarray,
        lengths: np.ndarray,
        known: Sequence[np.ndarray],
        count: int,
        epochs: int,
        seed: int,
    ) -> None:
        """Keeps them.

        Args:
            pairs: The pairs.
            ids: Token ids of all negatives, [negatives, length].
            lengths: Tokens of each.
            known: For each pair the rows of its negatives.
            count: Negatives drawn for a pair.
            epochs: Passes over the pairs.
            seed: Decides order and draws.
        """
        self.pairs, self.fields = pairs, pairs.fields
        self.ids, self.lengths, self.known = ids, lengths, known
        self.count, self.epochs, self.seed = count, epochs, seed
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        """The number of pairs in all epochs."""
        return self.epochs * len(self.pairs)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        """The fields of a pair with `negative_ids` and `negative_lengths`."""
        epoch, place = divmod(place, len(self.pairs))
        row = int(self._order(epoch)[place])
        random = np.random.default_rng((self.seed, epoch, row))
        choice = self.known[row] if len(self.known[row]) else np.arange(len(self.ids))
        drawn = np.resize(random.permutation(choice), self.count)
        negatives = {"negative_ids": self.ids[drawn], "negative_lengths": self.lengths[drawn]}
        return self.pairs[row] | negatives

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.pairs))
