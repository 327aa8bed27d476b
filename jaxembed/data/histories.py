"""Histories of users: which items each of them chose, for recommending."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import numpy as np

from jaxembed.data.tfds_source import PREFIX, open_tfds

_LIKED = 4.0  # of 5 stars
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class HistorySet:
    """Users' items to train on and to be found.

    Attributes:
        source: PATH of a folder with train.txt and test.txt, a user a line: `user item item ...`,
            all numbers from 0; or tfds:NAME of ratings (`user_id`, `movie_id`, `user_rating`), of
            which those of 4 and more count, and a fifth of each user's is held out.
    """

    source: str


@dataclasses.dataclass(frozen=True)
class Histories:
    """Items by user, as compressed sparse rows.

    Attributes:
        starts: int64 [users + 1]; the items of user u are `items[starts[u]:starts[u + 1]]`.
        items: int32, distinct for each user.
        item_count: Number of items there are.
    """

    starts: np.ndarray
    items: np.ndarray
    item_count: int

    def __len__(self) -> int:
        """The number of users."""
        return len(self.starts) - 1

    def __getitem__(self, user: int | np.integer) -> np.ndarray:
        """The items of a user."""
        return self.items[self.starts[user] : self.starts[user + 1]]

    def padded(self, users: np.ndarray) -> np.ndarray:
        """Items of some users, int32 [users, longest], filled up with -1."""
        rows = [self[user] for user in users]
        padded = np.full((len(rows), max(1, max(map(len, rows), default=1))), -1, np.int32)
        for row, items in zip(padded, rows, strict=True):
            row[: len(items)] = items
        return padded

    def rows(self, users: np.ndarray) -> np.ndarray:
        """Indicators of the items of some users, float32 [users, items]."""
        rows = np.zeros((len(users), self.item_count), np.float32)
        for row, user in zip(rows, users, strict=True):
            row[self[user]] = 1.0
        return rows

    def counts(self) -> np.ndarray:
        """How many users chose each item, int64 [items]."""
        return np.bincount(self.items, minlength=self.item_count)

    def fingerprint(self) -> str:
        """A hash of all histories."""
        digest = hashlib.sha256(np.ascontiguousarray(self.starts))
        digest.update(np.ascontiguousarray(self.items))
        return digest.hexdigest()


def load_histories(histories: HistorySet) -> tuple[Histories, Histories]:
    """Reads what each user chose, and what is to be found.

    Args:
        histories: Which.

    Returns:
        Training and test histories of the same users and items; a user may have none.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ValueError: If a line is no history; the message names it.
    """
    if histories.source.startswith(PREFIX):
        return _read_ratings(histories.source)
    folder = pathlib.Path(histories.source)
    train, test = (_read_file(folder / name) for name in ("train.txt", "test.txt"))
    users = 1 + max(max(train), max(test))
    lists = [[part.get(user, []) for user in range(users)] for part in (train, test)]
    return _pack(*lists)


def _read_file(path: pathlib.Path) -> dict[int, list[int]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: wanted a folder with train.txt and test.txt, a user a line."
        )
    found: dict[int, list[int]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            words = line.split()
            if not all(word.isascii() and word.isdigit() for word in words):
                raise ValueError(
                    f"{path}, line {number} is {line.strip()[:40]!r}: wanted `user item item ...`, "
                    "numbers from 0."
                )
            user, *items = map(int, words)
            if user in found:
                raise ValueError(f"{path}, line {number}: user {user} came before.")
            found[user] = sorted(set(items))
    if not any(found.values()):
        raise ValueError(f"{path} has no items.")
    return found


def _read_ratings(name: str) -> tuple[Histories, Histories]:
    source = open_tfds(name)
    wanted = ("user_id", "movie_id", "user_rating")
    first = source[0]
    if missing := [field for field in wanted if field not in first]:
        raise ValueError(f"{name} has no {missing}: its features are {sorted(first)}.")
    pairs = set()
    for index in range(len(source)):
        user, item, rating = (source[index][field] for field in wanted)
        if rating >= _LIKED:
            pairs.add((user, item))
    if not pairs:
        raise ValueError(f"{name} has no ratings of {_LIKED:g} and more.")
    users, items = (
        {k: n for n, k in enumerate(sorted(set(keys)))} for keys in zip(*pairs, strict=True)
    )
    lists: list[list[int]] = [[] for _ in users]
    for user, item in sorted(pairs):
        lists[users[user]].append(items[item])
    generator = np.random.default_rng(_SPLIT_SEED)
    train, test = [], []
    for chosen in lists:
        order = generator.permutation(len(chosen))
        held = len(chosen) // 5
        test.append(sorted(chosen[i] for i in order[:held]))
        train.append(sorted(chosen[i] for i in order[held:]))
    return _pack(train, test)


def _pack(train: list[list[int]], test: list[list[int]]) -> tuple[Histories, Histories]:
    flat = [np.array([i for row in part for i in row], np.int32) for part in (train, test)]
    item_count = 1 + max(int(part.max(initial=-1)) for part in flat)
    starts = [np.cumsum([0, *map(len, part)], dtype=np.int64) for part in (train, test)]
    first, second = (Histories(s, i, item_count) for s, i in zip(starts, flat, strict=True))
    return first, second
