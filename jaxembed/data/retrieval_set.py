"""Queries with the candidates that are right for them: what every retrieval is judged on."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxembed.atomic import write_atomically

Objects = tuple[str, ...] | np.ndarray
NONE = -1


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Queries, candidates, and which candidates are right for which query.

    Attributes:
        queries: Texts, or uint8 images [queries, height, width, channels].
        candidates: Texts or images.
        relevant: Numbers of the right candidates of each query, int32 [queries, most], filled up
            with -1.
        gains: What each right candidate is worth, float32 [queries, most], 0 where filled up.
        pools: Numbers of the candidates each query is to be answered from, int32 [queries, most],
            filled up with -1; None where these are all.
    """

    queries: Objects
    candidates: Objects
    relevant: np.ndarray
    gains: np.ndarray
    pools: np.ndarray | None = None

    def __post_init__(self) -> None:
        rows = {len(self.queries), len(self.relevant), len(self.gains)}
        rows |= set() if self.pools is None else {len(self.pools)}
        if len(rows) > 1 or self.relevant.shape != self.gains.shape:
            raise ValueError(
                f"{len(self.queries)} queries, relevant ids {self.relevant.shape}, gains "
                f"{self.gains.shape}: give a row of each a query."
            )
        for name in ("relevant", "pools"):
            numbers = getattr(self, name)
            if numbers is not None and numbers.size:
                if numbers.min() < NONE or numbers.max() >= len(self.candidates):
                    raise ValueError(
                        f"{name} has numbers from {numbers.min()} to {numbers.max()}, but there "
                        f"are {len(self.candidates)} candidates."
                    )

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def reversed(self) -> RetrievalSet:
        """The same the other way round: candidates that are right for a query ask for it."""
        asked: dict[int, list[int]] = {}
        for query, row in enumerate(self.relevant):
            for candidate in row[row != NONE]:
                asked.setdefault(int(candidate), []).append(query)
        numbers = sorted(asked)
        return make_retrieval_set(
            _take(self.candidates, numbers), self.queries, [asked[number] for number in numbers]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .npz file, whole or not at all.

        Args:
            path: The file.
        """
        arrays = {"relevant": self.relevant, "gains": self.gains}
        for name in ("queries", "candidates"):
            arrays[name] = _pack(getattr(self, name))
        if self.pools is not None:
            arrays["pools"] = self.pools
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        with write_atomically(path) as file:
            file.write(content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RetrievalSet:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Returns:
            The same set.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or something else.
        """
        content = pathlib.Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(content)) as archive:
                arrays = dict(archive)
            texts = {name: _unpack(arrays[name]) for name in ("queries", "candidates")}
            return cls(
                relevant=arrays["relevant"],
                gains=arrays["gains"],
                pools=arrays.get("pools"),
                **texts,
            )
        except Exception as error:  # zip, zlib, numpy and json each raise their own
            raise ValueError(f"{path} is no set of queries, or damaged ({error}).") from error


def make_retrieval_set(
    queries: Sequence[str] | np.ndarray,
    candidates: Sequence[str] | np.ndarray,
    relevant: Sequence[Sequence[int]],
    *,
    gains: Sequence[Sequence[float | int]] | None = None,
    pools: Sequence[Sequence[int]] | None = None,
) -> RetrievalSet:
    """Makes a set of ragged lists.

    Args:
        queries: Texts or images.
        candidates: Texts or images.
        relevant: Numbers of the right candidates of each query.
        gains: What each of them is worth; by default 1.
        pools: Numbers of the candidates each query is to be answered from; by default all.

    Returns:
        The set.

    Raises:
        ValueError: If lengths differ or a number is out of range.
    """
    ones = [[1.0] * len(row) for row in relevant]
    return RetrievalSet(
        _objects(queries),
        _objects(candidates),
        _pad(relevant, NONE, np.int32),
        _pad(ones if gains is None else gains, 0, np.float32),
        None if pools is None else _pad(pools, NONE, np.int32),
    )


def _objects(values: Sequence[str] | np.ndarray) -> Objects:
    return values if isinstance(values, np.ndarray) else tuple(values)


def _take(values: Objects, numbers: Sequence[int]) -> Objects:
    if isinstance(values, np.ndarray):
        return values[np.asarray(numbers, np.int64)]
    return tuple(values[number] for number in numbers)


def _pad(rows: Sequence[Sequence[float | int]], filler: int, dtype: type) -> np.ndarray:
    padded = np.full((len(rows), max(1, max(map(len, rows), default=1))), filler, dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def _pack(values: Objects) -> np.ndarray:
    """Texts as the bytes of their JSON; images as they are."""
    if isinstance(values, np.ndarray):
        return values
    return np.frombuffer(json.dumps(values, ensure_ascii=False).encode(), np.uint8)


def _unpack(values: np.ndarray) -> Objects:
    return values if values.ndim > 1 else tuple(json.loads(values.tobytes()))
