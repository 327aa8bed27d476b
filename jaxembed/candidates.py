"""The two-tower flow: candidates encoded once into files, an exact index, queries answered from it.

Encoding can be stopped and resumed, and several processes can share it; queries need no more than
the index and the query tower.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxembed.atomic import write_atomically
from jaxembed.search import ExactIndex, Index

PathLike = str | os.PathLike[str]
Items = Sequence[Any] | np.ndarray
Encode = Callable[[Any], Any]
_MANIFEST, _FORMAT = "candidates.json", "jaxembed.candidates"


def encode_candidates(
    encode: Encode,
    candidates: Items,
    folder: PathLike,
    *,
    made_by: str,
    batch_size: int = 256,
    shard_size: int = 65_536,
    process_index: int | None = None,
    process_count: int | None = None,
) -> int:
    """Encodes this process's share of the candidates into a folder.

    The vectors go to files of `shard_size` rows, each of which appears whole or not at all; what is
    there already is not encoded again. So the same call resumes after a kill, and loses at most a
    file of work. File i is the work of process i modulo their number.

    Args:
        encode: From `batch_size` candidates, always as many, to vectors [batch_size, dim].
        candidates: Texts, images or anything else with a length and slices.
        folder: Where the vectors go, the same for all processes.
        made_by: What encoded them and of what, such as the path of a run and a fingerprint of the
            candidates: a folder with another is refused.
        batch_size: Candidates encoded at once; the last batch is filled up with its first ones.
        shard_size: Rows a file.
        process_index: Which process this is; None asks jax.
        process_count: How many processes there are; None asks jax.

    Returns:
        How many candidates were encoded by this call.

    Raises:
        ValueError: If a number is out of range, the folder holds vectors of something else, or
            `encode` gives something else than finite vectors.
    """
    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    count = len(candidates)
    if min(count, batch_size, shard_size) < 1:
        raise ValueError(
            f"{count} candidates, batch_size {batch_size}, shard_size {shard_size}: give 1 or more "
            "of each."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}: give 0 to count - 1.")
    folder = pathlib.Path(folder)
    _agree_on(folder, {"made_by": made_by, "count": count, "shard_size": shard_size})
    done = 0
    for shard in range(process_index, -(-count // shard_size), process_count):
        start, end = shard * shard_size, min((shard + 1) * shard_size, count)
        path = _shard_path(folder, shard)
        if path.exists():
            continue
        parts = [
            _encode_batch(encode, candidates[first : min(first + batch_size, end)], batch_size)
            for first in range(start, end, batch_size)
        ]
        if len(widths := {part.shape[1] for part in parts}) > 1:
            raise ValueError(f"encode gives vectors of {sorted(widths)} dimensions: give one.")
        with write_atomically(path) as file:
            np.save(file, np.concatenate(parts))
        done += end - start
    return done


def load_candidates(folder: PathLike) -> np.ndarray:
    """Reads all vectors that `encode_candidates` wrote.

    Args:
        folder: The folder.

    Returns:
        float32 [candidates, dim], in the order of the candidates.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If not all is encoded yet, or a file is damaged; the message names it.
    """
    folder = pathlib.Path(folder)
    manifest = _require_manifest(folder)
    count, shard_size = manifest["count"], manifest["shard_size"]
    shards = -(-count // shard_size)
    paths = [_shard_path(folder, shard) for shard in range(shards)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {shards} files, the first is {missing[0]}: call "
            "encode_candidates again, in as many processes as before, to finish it."
        )
    parts = []
    for shard, path in enumerate(paths):
        try:
            part = np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and encode again.") from error
        wanted = min(shard_size, count - shard * shard_size)
        if part.ndim != 2 or len(part) != wanted or part.shape[1] != (parts or [part])[0].shape[1]:
            raise ValueError(
                f"{path} holds {part.shape}, but {wanted} rows as wide as the others are wanted: "
                "delete it and encode again."
            )
        parts.append(part)
    return np.concatenate(parts)


def answer(
    index: Index,
    encode: Encode,
    queries: Items,
    k: int,
    *,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the candidates nearest to queries, which are encoded here.

    Args:
        index: Of the candidates' vectors, such as `index_candidates` builds.
        encode: The query tower: from `batch_size` queries, always as many, to [batch_size, dim].
        queries: Texts, images or anything else with a length and slices.
        k: How many candidates a query.
        batch_size: Queries encoded and searched for at once.

    Returns:
        Scores and numbers of candidates, [queries, k] each, best first; -1 where there are fewer.

    Raises:
        ValueError: If a number is out of range or the towers' vectors do not fit.
    """
    if batch_size < 1 or not len(queries):
        raise ValueError(f"{len(queries)} queries, batch_size {batch_size}: give 1 or more.")
    found = []
    for first in range(0, len(queries), batch_size):
        batch = queries[first : first + batch_size]
        vectors = _encode_batch(encode, batch, batch_size, keep=batch_size)
        found.append([np.asarray(part)[: len(batch)] for part in index.search(vectors, k)])
    scores, ids = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(ids)


def read_maker(folder: PathLike) -> str:
    """Says what a folder's candidates were encoded by, as `encode_candidates` was told.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is damaged.
    """
    return _require_manifest(pathlib.Path(folder))["made_by"]


def index_candidates(folder: PathLike, *, metric: str = "cosine") -> ExactIndex:
    """Builds an exact index of encoded candidates, whose ids are their numbers.

    Args:
        folder: What `encode_candidates` filled.
        metric: "dot", "cosine" or "euclidean".

    Returns:
        The index; `save` keeps it.

    Raises:
        FileNotFoundError: As for `load_candidates`.
        ValueError: As for `load_candidates`, or on an unknown metric.
    """
    return ExactIndex.build(load_candidates(folder), metric=metric)


def _encode_batch(encode: Encode, batch: Items, size: int, keep: int | None = None) -> np.ndarray:
    """Vectors of a batch, which is filled up to one size, so that `encode` is compiled once."""
    missing = size - len(batch)
    if missing and isinstance(batch, np.ndarray):
        filled = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
    else:
        filled = [*batch, *[batch[0]] * missing] if missing else batch
    vectors = np.asarray(encode(filled), np.float32)
    if vectors.ndim != 2 or len(vectors) != size:
        raise ValueError(f"encode gives {vectors.shape} for {size} items: give a vector each.")
    vectors = vectors[: len(batch) if keep is None else keep]
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"the vector of {batch[min(row, len(batch) - 1)]!r:.60} is not finite.")
    return vectors


def _shard_path(folder: pathlib.Path, shard: int) -> pathlib.Path:
    return folder / f"vectors.{shard:05}.npy"


def _read_manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / _MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] == _FORMAT:
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is damaged or of something else: choose another folder.")


def _require_manifest(folder: pathlib.Path) -> dict[str, Any]:
    manifest = _read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"{folder} has no {_MANIFEST}: encode_candidates writes it.")
    return manifest


def _agree_on(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Writes what the folder holds, or raises if it holds something else."""
    wanted = {"format": _FORMAT} | wanted
    found = _read_manifest(folder)
    if found is None:
        with write_atomically(folder / _MANIFEST) as file:
            file.write(json.dumps(wanted, indent=1).encode())
    elif found != wanted:
        different = [
            f"{name}: {found.get(name)!r} and {wanted[name]!r}"
            for name in wanted
            if found.get(name) != wanted[name]
        ]
        raise ValueError(
            f"{folder} holds the vectors of other candidates ({'; '.join(different)}): choose "
            "another folder, or delete it."
        )
