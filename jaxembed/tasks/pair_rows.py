"""Pairs as sources of batches, alone or with documents that are known to be wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxembed.data import TextMatches


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
    """Pairs, in each epoch with others of their hard negatives.

    What is drawn is decided by the seed, the epoch and the pair alone, so a run resumes anywhere. A
    pair with fewer negatives than wanted repeats them.
    """

    def __init__(
        self,
        pairs: PairRows,
        ids: np.ndarray,
        lengths: np.ndarray,
        known: Sequence[np.ndarray],
        count: int,
        seed: int,
        epoch: int = 0,
    ) -> None:
        """Keeps them.

        Args:
            pairs: The pairs.
            ids: Token ids of all negatives, [negatives, length].
            lengths: Tokens of each.
            known: For each pair the rows of its negatives, one or more.
            count: Negatives drawn for a pair.
            seed: Decides the draws.
            epoch: Likewise.
        """
        self.pairs, self.fields = pairs, pairs.fields
        self.ids, self.lengths, self.known = ids, lengths, known
        self.count, self.seed, self.epoch = count, seed, epoch

    def of_epoch(self, epoch: int) -> RowsWithNegatives:
        """The same pairs with the draws of an epoch."""
        parts = self.pairs, self.ids, self.lengths, self.known, self.count, self.seed
        return RowsWithNegatives(*parts, epoch)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """The fields of a pair with `negative_ids` and `negative_lengths`."""
        random = np.random.default_rng((self.seed, self.epoch, row))
        drawn = np.resize(random.permutation(self.known[row]), self.count)
        negatives = {"negative_ids": self.ids[drawn], "negative_lengths": self.lengths[drawn]}
        return self.pairs[row] | negatives


def known_negatives(matches: TextMatches, everything: Sequence[str]) -> list[list[str]]:
    """What may be drawn for each pair: its negatives, those of others where it has none.

    Args:
        matches: The pairs.
        everything: All distinct negatives.

    Returns:
        For each pair one text or more, none of which answers it or a pair of equal id.

    Raises:
        ValueError: If every negative of the data is right for some pair.
    """
    right: dict[int, set[str]] = {}
    for number, document in zip(matches.ids.tolist(), matches.documents, strict=True):
        right.setdefault(number, set()).add(document)
    found = []
    for row, number in enumerate(matches.ids.tolist()):
        own = [text for text in matches.negatives[row] if text not in right[number]]
        others = own or [text for text in everything if text not in right[number]]
        if not others:
            raise ValueError(
                f"all documents that are known to be wrong answer {matches.queries[row][:60]!r}: "
                "give hard_negatives 0."
            )
        found.append(others)
    return found
