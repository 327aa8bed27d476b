"""BM25, the ranking by words that a learned retrieval is set beside. Host side, scipy."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")


def split_words(text: str) -> list[str]:
    """Splits a text into lower-case words; names in code fall apart where their parts meet.

    Args:
        text: "KeyedVectors.most_similar(k=3)" for example.

    Returns:
        Words of letters and digits: keyed, vectors, most, similar, k, 3.
    """
    return [word.lower() for word in _WORD.findall(_HUMP.sub(" ", text))]


@dataclasses.dataclass(frozen=True, eq=False)
class BM25:
    """Documents, ready to be ranked.

    Attributes:
        weights: What a word adds to a document's score, [words, documents].
        places: Row of each word.
        split: Makes words of a text.
    """

    weights: scipy.sparse.csr_array
    places: dict[str, int]
    split: Callable[[str], list[str]]

    @classmethod
    def build(
        cls,
        documents: Sequence[str],
        *,
        k1: float = 1.2,
        b: float = 0.75,
        split: Callable[[str], list[str]] = split_words,
    ) -> BM25:
        """Counts the words of documents.

        Args:
            documents: Texts.
            k1: How slowly a word's repetitions saturate; 0 or more.
            b: How far counts are divided by the length of the document, from 0 to 1.
            split: Makes words of a text.

        Returns:
            The documents, ready to be ranked.

        Raises:
            ValueError: If a number is out of range or there are no documents.

        Reference: Robertson and Zaragoza, 2009, https://doi.org/10.1561/1500000019, eq. 3.15, with
        the idf log(1 + (N - n + .5) / (n + .5)) of Lucene, which is never negative.
        """
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 is {k1} and b {b}: give 0 or more, and a number from 0 to 1.")
        if not len(documents):
            raise ValueError("there are no documents to rank.")
        counts = [Counter(split(text)) for text in documents]
        places: dict[str, int] = {}
        rows = [places.setdefault(word, len(places)) for one in counts for word in one]
        columns = np.repeat(np.arange(len(counts)), [len(one) for one in counts])
        frequency = np.array([n for one in counts for n in one.values()], np.float64)
        lengths = np.array([one.total() for one in counts], np.float64)
        relative = lengths[columns] / max(lengths.mean(), 1.0)
        saturated = frequency * (k1 + 1) / (frequency + k1 * (1 - b + b * relative))
        holding = np.bincount(rows, minlength=len(places))  # documents of each word
        idf = np.log1p((len(counts) - holding + 0.5) / (holding + 0.5))
        values = (saturated * idf[np.asarray(rows, np.int64)]).astype(np.float32)
        shape = (len(places), len(counts))
        weights = scipy.sparse.csr_array((values, (np.asarray(rows, np.int64), columns)), shape)
        return cls(weights, places, split)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Scores every document for every query.

        Args:
            queries: Texts; words that no document holds add nothing.

        Returns:
            float32 [queries, documents], 0 where no word is shared.
        """
        rows, columns = [], []
        for number, query in enumerate(queries):
            known = [self.places[word] for word in self.split(query) if word in self.places]
            rows.extend([number] * len(known))
            columns.extend(known)
        asked = scipy.sparse.csr_array(
            (np.ones(len(rows), np.float32), (rows, columns)), (len(queries), len(self.places))
        )
        return (asked @ self.weights).toarray()


def rank(scores: np.ndarray, k: int, *, pools: np.ndarray | None = None) -> np.ndarray:
    """Orders candidates by their scores.

    Args:
        scores: [queries, candidates], larger is better.
        k: How many to return.
        pools: Numbers of the candidates each query may have, [queries, most], filled up with -1;
            None where these are all.

    Returns:
        int32 [queries, k], best first, equal scores lowest number first; -1 where there are fewer.

    Raises:
        ValueError: If k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1.")
    scores = _keep_pools(scores, pools)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.where(np.take_along_axis(scores, order, axis=1) == -np.inf, -1, order)
    missing = max(0, k - scores.shape[1])
    return np.pad(found, ((0, 0), (0, missing)), constant_values=-1).astype(np.int32)


def best_rank(
    scores: np.ndarray, relevant: np.ndarray, *, pools: np.ndarray | None = None
) -> np.ndarray:
    """Finds the rank of the first relevant candidate, without ordering the others.

    Args:
        scores: As of `rank`.
        relevant: Numbers of the relevant candidates, [queries, most], filled up with -1.
        pools: As of `rank`.

    Returns:
        int32 [queries], from 1, as `rank` would order them; 0 where no relevant one is to be had.

    Raises:
        ValueError: If a score is no number.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, which has no place in an order.")
    scores = _keep_pools(scores, pools)
    relevant = np.sort(relevant, axis=1)  # of equal scores the lowest number comes first
    own = np.where(relevant >= 0, np.take_along_axis(scores, relevant, axis=1), -np.inf)
    place = np.argmax(own, axis=1)[:, None]
    own, number = (np.take_along_axis(values, place, axis=1) for values in (own, relevant))
    is_tied_before = (scores == own) & (np.arange(scores.shape[1])[None] < number)
    ranks = 1 + np.sum((scores > own) | is_tied_before, axis=1)
    return np.where(own[:, 0] > -np.inf, ranks, 0).astype(np.int32)


def _keep_pools(scores: np.ndarray, pools: np.ndarray | None) -> np.ndarray:
    """The scores, those of candidates that a query may not have as minus infinity."""
    if pools is None:
        return scores
    is_allowed = np.zeros(scores.shape, bool)
    rows, places = np.nonzero(pools >= 0)
    is_allowed[rows, pools[rows, places]] = True
    return np.where(is_allowed, scores, -np.inf)
