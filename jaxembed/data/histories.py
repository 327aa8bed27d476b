"""Users' item histories from text: `user item item ...` on each line; host side."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class SparseRows:
    """Sets of items, one for each row.

    Attributes:
        starts: int64 [rows + 1]; row i has the places starts[i] to starts[i + 1].
        items: int32 [places], sorted and distinct within a row.
        width: Number of items there are.
    """

    starts: np.ndarray
    items: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> np.ndarray:
        """The items of a row.

        Args:
            index: From 0.

        Returns:
            int32, sorted.
        """
        return self.items[self.starts[index] : self.starts[index + 1]]

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Rows as indicators.

        Args:
            rows: Indices of rows.

        Returns:
            float32 [rows, width] of 0 and 1.
        """
        rows = np.asarray(rows)
        counts = self.starts[rows + 1] - self.starts[rows]
        dense = np.zeros((len(rows), self.width), np.float32)
        columns = [self.row(row) for row in rows.tolist()]
        where = np.repeat(np.arange(len(rows)), counts)
        dense[where, np.concatenate([*columns, np.zeros(0, np.int32)])] = 1.0
        return dense

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """Rows as ids, as the metrics of retrieval take them.

        Args:
            rows: Indices of rows.

        Returns:
            int32 [rows, longest of them], -1 behind a row's end.
        """
        columns = [self.row(row) for row in np.asarray(rows).tolist()]
        longest = max(map(len, columns), default=0)
        ids = np.full((len(columns), longest), -1, np.int32)
        for place, column in enumerate(columns):
            ids[place, : len(column)] = column
        return ids

    def popularity(self) -> np.ndarray:
        """How many rows hold each item, int64 [width]."""
        return np.bincount(self.items, minlength=self.width)


@dataclasses.dataclass(frozen=True)
class Histories:
    """What users took, in training and held out.

    Attributes:
        train: A row a user.
        test: A row a user; empty where nothing was held out.
    """

    train: SparseRows
    test: SparseRows

    @property
    def fingerprint(self) -> str:
        """sha256 of both parts, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(f"{len(part)} {part.width}".encode())
            digest.update(part.starts.astype("<i8").tobytes())
            digest.update(part.items.astype("<i4").tobytes())
        return digest.hexdigest()


def read_histories(folder: str | os.PathLike[str]) -> Histories:
    """Reads a folder with train.txt and test.txt of lines `user item item ...`.

    Users and items are numbers from 0. A user without a line has an empty row.

    Args:
        folder: Where the files lie.

    Returns:
        Both parts, over the same users and items.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is malformed, a user has two, or an item is both in a user's training
            and test part; the message names file and line.
    """
    folder = pathlib.Path(folder)
    parts = {}
    for name in ("train", "test"):
        file = folder / f"{name}.txt"
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}: give a folder with train.txt and test.txt.")
        parts[name] = _read_lines(file)
    if not any(row.size for row in parts["train"].values()):
        raise ValueError(f"{folder / 'train.txt'} has no items: give users' histories.")
    everything = [row for part in parts.values() for row in part.values() if row.size]
    width = 1 + max(int(row.max()) for row in everything)
    users = 1 + max(user for part in parts.values() for user in part)
    for user, row in parts["test"].items():
        both = np.intersect1d(row, parts["train"].get(user, row[:0]))
        if both.size:
            raise ValueError(
                f"{folder / 'test.txt'}: item {both[0]} of user {user} is in train.txt as well: "
                "what is held out must not be trained on."
            )
    train, test = (_stack(parts[name], users, width) for name in ("train", "test"))
    return Histories(train, test)


def _read_lines(file: pathlib.Path) -> dict[int, np.ndarray]:
    rows: dict[int, np.ndarray] = {}
    with open(file, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            try:
                values = np.array(words, np.int64)
            except (ValueError, OverflowError) as error:
                raise ValueError(
                    f"{file}, line {number}: {line.strip()[:60]!r} is not `user item item ...` in "
                    "whole numbers."
                ) from error
            if values.min() < 0 or values.max() >= 2**31:
                raise ValueError(
                    f"{file}, line {number}: {values.min()} to {values.max()}; users and items are "
                    "numbers from 0 to 2**31 - 1."
                )
            user = int(values[0])
            if user in rows:
                raise ValueError(f"{file}, line {number}: user {user} has a line already.")
            rows[user] = np.unique(values[1:]).astype(np.int32)
    return rows


def _stack(rows: dict[int, np.ndarray], users: int, width: int) -> SparseRows:
    empty = np.zeros(0, np.int32)
    columns = [rows.get(user, empty) for user in range(users)]
    starts = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    return SparseRows(starts.astype(np.int64), np.concatenate(columns), width)
