"""Keyed vectors: words or other keys with a vector each, to look up, compare, search and save.

This file imports `convert/word2vec.py` and `atomic.py`, which know nothing of it, so that
`KeyedVectors.load` and `.save` read and write the usual files.
"""

import difflib
import functools
import os
import re
import struct
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax import lax
from jaxtyping import Array, Float, Float32
from numpy.typing import ArrayLike

from jaxembed.atomic import write_atomically
from jaxembed.convert import word2vec
from jaxembed.metrics.words import COSMUL_EPSILON, Method
from jaxembed.search.exact import exact_top_k
from jaxembed.search.index import Index
from jaxembed.search.similarity import unit_rows

PathLike = str | os.PathLike[str]
Pooling = Literal["mean", "sum", "min-max"]
Neighbours = list[tuple[str, float]]

QUERIES_AT_ONCE = 1024
# An unknown word is compared with the most frequent keys only; more would take seconds.
KEYS_SEARCHED_FOR_SPELLING = 50_000

_top_k = jax.jit(exact_top_k, static_argnames=("k", "metric", "block_size"))
_unit_rows = jax.jit(unit_rows)


class KeyedVectors:
    """Keys and their vectors: immutable, on the host, with a unit-length copy on the device.

    Attributes:
        keys: The keys, usually most frequent first.
        matrix: Their vectors, float32, read-only.
        counts: How often each key occurred, int64, or None where unknown.
    """

    def __init__(
        self, keys: Sequence[str], matrix: ArrayLike, counts: ArrayLike | None = None
    ) -> None:
        """Pairs keys with the rows of a matrix.

        Args:
            keys: Distinct strings.
            matrix: A row for each key; converted to float32.
            counts: How often each key occurred.

        Raises:
            ValueError: If there are no keys, a key occurs twice, or shapes disagree.
            TypeError: If a key is not a string.
        """
        matrix = np.asarray(matrix, np.float32)
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            raise TypeError("keys must be a list of strings; convert other keys with str().")
        if matrix.ndim != 2 or len(keys) != len(matrix) or matrix.size == 0:
            raise ValueError(
                f"{len(keys)} keys for a matrix of shape {matrix.shape}: wanted [count, dim] with "
                "one row a key, and at least one."
            )
        self.keys = tuple(keys)
        self.matrix = matrix.view()
        self.matrix.flags.writeable = False
        self.counts = None if counts is None else np.asarray(counts, np.int64)
        if self.counts is not None and self.counts.shape != (len(keys),):
            raise ValueError(
                f"counts have shape {self.counts.shape}: wanted one count for each of the "
                f"{len(keys)} keys."
            )
        self._rows = {key: row for row, key in enumerate(self.keys)}
        if len(self._rows) < len(self.keys):
            duplicate = next(key for row, key in enumerate(self.keys) if self._rows[key] != row)
            raise ValueError(f"key {duplicate!r} occurs more than once: keys must be distinct.")

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self)} keys, dim {self.dim})"

    def __getitem__(
        self, key: str | Sequence[str]
    ) -> Float32[np.ndarray, "dim"] | Float32[np.ndarray, "keys dim"]:
        if isinstance(key, str):
            return self.matrix[self.index(key)]
        return self.matrix[self._indices(key)]

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.matrix.shape[1]

    @functools.cached_property
    def unit(self) -> Float[Array, "count dim"]:
        """The vectors scaled to length 1, on the device; zero vectors stay zero."""
        return _unit_rows(jnp.asarray(self.matrix))

    def index(self, key: str) -> int:
        """Finds the row of a key.

        Args:
            key: A key.

        Returns:
            Its row in `matrix`.

        Raises:
            KeyError: If there is no such key; the message names close spellings.
        """
        try:
            return self._rows[key]
        except KeyError:
            raise KeyError(self._explain_unknown(key)) from None

    def nearest(
        self, query: str | ArrayLike, k: int = 10, *, index: Index | None = None
    ) -> Neighbours:
        """Finds the keys whose vectors have the highest cosine with a query.

        Args:
            query: A key, which is not its own neighbour, or a vector.
            k: How many, at least 1; fewer come where there are fewer other keys.
            index: An index of `matrix` to ask in place of scoring every key; its ids are rows.
                Its own scores are returned.

        Returns:
            Keys and cosines, nearest first; equal cosines come in the order of `keys`.

        Raises:
            KeyError: If the query is an unknown key.
            ValueError: If k is below 1, or the vector or the index has another dimension.
        """
        if isinstance(query, str):
            return self.nearest_many([query], k, index=index)[0]
        vector = np.asarray(query, np.float32)
        if vector.ndim != 1:
            raise ValueError(
                f"The query has shape {vector.shape}: wanted a key or one vector of {self.dim} "
                "numbers; for several queries call nearest_many."
            )
        return self.nearest_many(vector[None, :], k, index=index)[0]

    def nearest_many(
        self, queries: Sequence[str] | ArrayLike, k: int = 10, *, index: Index | None = None
    ) -> list[Neighbours]:
        """Finds the nearest keys of many queries at once.

        Args:
            queries: Keys, each of which is not its own neighbour, or a matrix of vectors by row.
            k: How many for each query, at least 1.
            index: As in `nearest`.

        Returns:
            For each query what `nearest` returns.

        Raises:
            KeyError: If a query is an unknown key.
            ValueError: If there is no query, k is below 1, or vectors or the index have another
                dimension.
            TypeError: If the queries are one string.
        """
        if isinstance(queries, str):
            raise TypeError(f"queries is the string {queries!r}: call nearest for a single key.")
        if len(queries) and isinstance(queries[0], str):
            rows = self._indices(queries)
            return self._search(self.matrix[rows], rows[:, None], k, index)
        vectors = np.asarray(queries, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or len(vectors) == 0:
            raise ValueError(
                f"The queries have shape {vectors.shape}: wanted keys or vectors of {self.dim} "
                "numbers, and at least one."
            )
        return self._search(vectors, np.full((len(vectors), 1), -1), k, index)

    def analogy(
        self,
        a: str,
        b: str,
        c: str,
        k: int = 1,
        method: Method = "3CosAdd",
        *,
        index: Index | None = None,
    ) -> Neighbours:
        """Answers "a is to b as c is to ?": man, king, woman gives queen.

        b and c are treated alike, so man, woman, king asks the same.

        Args:
            a: The key that b is related to.
            b: The key related to a.
            c: The key whose relative is wanted.
            k: How many answers, at least 1.
            method: "3CosAdd" or "3CosMul", as in `metrics.words.evaluate_analogies`.
            index: As in `nearest`; for "3CosAdd" only.

        Returns:
            Keys and scores, best first, never a, b or c. The score is the cosine with
            b - a + c for "3CosAdd" and the quotient of cosines for "3CosMul".

        Raises:
            KeyError: If a key is unknown.
            ValueError: If k is below 1, or the method is unknown or has no use for an index.
        """
        return self.analogy_many([(a, b, c)], k, method, index=index)[0]

    def analogy_many(
        self,
        questions: Sequence[tuple[str, str, str]],
        k: int = 1,
        method: Method = "3CosAdd",
        *,
        index: Index | None = None,
    ) -> list[Neighbours]:
        """Answers many analogies at once.

        Args:
            questions: Keys (a, b, c), as in `analogy`.
            k: How many answers for each, at least 1.
            method: As in `analogy`.
            index: As in `analogy`.

        Returns:
            For each question what `analogy` returns.

        Raises:
            KeyError: If a key is unknown.
            ValueError: If there is no question, k is below 1 or the method is unknown.
        """
        if method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise ValueError(f"Unknown method {method!r}: choose one of {known}.")
        rows = self._indices([key for question in questions for key in question])
        if len(rows) != 3 * len(questions):
            raise ValueError("A question is three keys: (a, b, c) for a is to b as c is to ?")
        rows = rows.reshape(-1, 3)
        if method == "3CosAdd":
            a, b, c = np.moveaxis(np.asarray(self.unit[rows]), 1, 0)
            return self._search(b - a + c, rows, k, index)
        if index is not None:
            raise ValueError("3CosMul scores every key: leave index out, or ask by 3CosAdd.")
        return self._in_batches(
            lambda rows, kept: _cos_mul_top_k(self.unit, rows, kept), (rows,), k, batch_size=128
        )

    def similarity(self, a: str, b: str) -> float:
        """Computes the cosine of two keys' vectors.

        Args:
            a: A key.
            b: A key.

        Returns:
            The cosine, from -1 to 1; 0 if a vector is zero.

        Raises:
            KeyError: If a key is unknown.
        """
        left, right = self[[a, b]].astype(np.float64)
        norms = np.linalg.norm(left) * np.linalg.norm(right)
        return float(left @ right / norms) if norms > 0 else 0.0

    def odd_one_out(self, keys: Sequence[str]) -> str:
        """Finds the key that fits the others least: farthest from the mean of the unit vectors.

        Args:
            keys: At least three keys.

        Returns:
            The key with the lowest cosine with the mean; of equal ones the first.

        Raises:
            KeyError: If a key is unknown.
            ValueError: If there are fewer than three.
        """
        if isinstance(keys, str) or len(keys) < 3:
            raise ValueError(f"odd_one_out got {keys!r}: wanted a list of at least 3 keys.")
        unit = np.asarray(self.unit[self._indices(keys)])
        return keys[int(np.argmin(unit @ unit.mean(axis=0)))]

    def sentence_vectors(
        self, sentences: Sequence[Sequence[str]], pooling: Pooling = "mean"
    ) -> Float32[np.ndarray, "sentences pooled"]:
        """Makes a vector of each sentence out of those of its words; unknown words are skipped.

        Args:
            sentences: Lists of words.
            pooling: "mean", "sum", or "min-max": the smallest and then the largest value of each
                dimension, side by side.

        Returns:
            A row for each sentence, of width dim, or 2 * dim for "min-max". A sentence without a
            known word is all zeros.

        Raises:
            ValueError: If there is no sentence or the pooling is unknown.
            TypeError: If a sentence is a string rather than a list of words.
        """
        if pooling not in get_args(Pooling):
            known = ", ".join(get_args(Pooling))
            raise ValueError(f"Unknown pooling {pooling!r}: choose one of {known}.")
        if len(sentences) == 0:
            raise ValueError("There are no sentences: wanted at least one list of words.")
        width = 2 * self.dim if pooling == "min-max" else self.dim
        pooled = np.zeros((len(sentences), width), np.float32)
        for row, words in enumerate(sentences):
            if isinstance(words, str):
                raise TypeError(f"Sentence {words!r} is a string: split it into words first.")
            vectors = self.matrix[[self._rows[word] for word in words if word in self._rows]]
            if len(vectors) == 0:
                continue
            if pooling == "min-max":
                pooled[row] = np.concatenate([vectors.min(axis=0), vectors.max(axis=0)])
            else:
                pooled[row] = vectors.mean(axis=0) if pooling == "mean" else vectors.sum(axis=0)
        return pooled

    def save(self, path: PathLike) -> None:
        """Writes a file in the format that its name ends in; it appears whole or not at all.

        Only `.safetensors`, the native format, keeps counts and takes any key.

        Args:
            path: `.safetensors`, `.bin` (word2vec binary), `.txt` or `.vec` (word2vec text); the
                last three also with `.gz`. GloVe text: `convert.word2vec.write_glove_text`.

        Raises:
            ValueError: On another ending, or a key that the format cannot hold.
        """
        kind = _kind_by_name(path)
        if kind == "native":
            _write_native(path, self)
        elif kind == "binary":
            word2vec.write_word2vec_binary(path, self.keys, self.matrix)
        elif kind == "text":
            word2vec.write_word2vec_text(path, self.keys, self.matrix)
        else:
            raise ValueError(
                f"{os.fspath(path)!r} has no known ending: wanted .safetensors, .bin, .txt or .vec."
            )

    @classmethod
    def load(cls, path: PathLike, limit: int | None = None) -> "KeyedVectors":
        """Reads vectors from a file in the native, word2vec or GloVe format.

        The ending decides: `.safetensors`, `.bin` (word2vec binary), `.txt` or `.vec` (word2vec
        text, or GloVe where there is no header); `.gz` after them is allowed. With another ending
        the content decides.

        Args:
            path: The file.
            limit: Read only the first so many vectors; None reads all.

        Returns:
            The vectors.

        Raises:
            ValueError: If the file is damaged, in another format, or names a key twice.
        """
        kind = _kind_by_name(path) or _kind_by_content(path)
        if kind == "native":
            return cls(*_read_native(path, limit))
        reader = word2vec.read_word2vec_binary if kind == "binary" else word2vec.read_text
        keys, matrix = reader(path, limit=limit)
        try:
            return cls(keys, matrix)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _search(self, vectors, excluded, k, index) -> list[Neighbours]:
        """The nearest keys of vectors, without the excluded ids of the same row."""
        if index is not None:
            if (index.size, index.dim) != self.matrix.shape:
                raise ValueError(
                    f"The index holds {index.size} vectors of {index.dim} numbers, but the keys "
                    f"have a matrix of shape {self.matrix.shape}: build it from `matrix`."
                )
            return self._search_index(vectors, excluded, k, index)

        def search(vectors, excluded, kept):
            return _top_k(_unit_rows(vectors), self.unit, k=kept, exclude=excluded)

        return self._in_batches(search, (vectors, excluded), k, batch_size=QUERIES_AT_ONCE)

    def _search_index(self, vectors, excluded, k, index) -> list[Neighbours]:
        """An index knows no ids to leave out: so many more are asked for, and dropped."""
        found = self._in_batches(
            lambda vectors, kept: index.search(vectors, kept),
            (vectors,),
            k + excluded.shape[1],
            batch_size=QUERIES_AT_ONCE,
        )
        kept = []
        for row, neighbours in zip(excluded.tolist(), found, strict=True):
            left_out = {self.keys[i] for i in row if i >= 0}
            kept.append([pair for pair in neighbours if pair[0] not in left_out][:k])
        return kept

    def _in_batches(self, search, arrays, k, *, batch_size) -> list[Neighbours]:
        """Runs a search over padded batches, so that few sizes are ever compiled."""
        if k < 1:
            raise ValueError(f"k is {k}: it must be at least 1.")
        found = []
        for start in range(0, len(arrays[0]), batch_size):
            parts = [array[start : start + batch_size] for array in arrays]
            size = len(parts[0])
            padding = (1 << (size - 1).bit_length()) - size
            parts = [jnp.asarray(np.pad(part, ((0, padding), (0, 0)), "edge")) for part in parts]
            scores, ids = search(*parts, min(k, len(self)))
            for row in zip(np.asarray(scores)[:size], np.asarray(ids)[:size], strict=True):
                found.append(
                    [(self.keys[i], float(s)) for s, i in zip(*row, strict=True) if i >= 0]
                )
        return found

    def _indices(self, keys: Sequence[str]) -> np.ndarray:
        """The rows of a list of keys."""
        if len(keys) == 0:
            raise ValueError("The list is empty: wanted at least one key.")
        return np.asarray([self.index(key) for key in keys], np.int32)

    def _explain_unknown(self, key) -> str:
        message = f"{key!r} is not among the {len(self)} keys"
        if not isinstance(key, str):
            return f"{message}, which are strings."
        near = [
            other
            for other in self.keys[:KEYS_SEARCHED_FOR_SPELLING]
            if abs(len(other) - len(key)) <= 2
        ]
        close = [other for other in (key.lower(), key.title(), key.upper()) if other in self]
        close += [other for other in difflib.get_close_matches(key, near) if other not in close]
        if not close:
            return f"{message}, and none of them is spelt like it."
        return f"{message}; close spellings: {', '.join(map(repr, dict.fromkeys(close[:3])))}."


@functools.partial(jax.jit, static_argnames="k")
def _cos_mul_top_k(unit, rows, k):
    """The k best answers by 3CosMul to (a, b, c) in rows, these excluded."""
    cosines = jnp.matmul(unit[rows], unit.T, precision=lax.Precision.HIGHEST)
    a, b, c = jnp.moveaxis((1.0 + cosines) / 2.0, 1, 0)  # [questions, count]
    scores = b * c / (a + COSMUL_EPSILON)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    scores = scores.at[jnp.arange(rows.shape[0])[:, None], rows].set(-jnp.inf)
    scores, ids = lax.top_k(scores, k)
    return scores, jnp.where(scores == -jnp.inf, -1, ids)


def _kind_by_name(path: PathLike) -> str | None:
    name = os.fspath(path).lower()
    if name.endswith(".safetensors"):
        return "native"
    name = name.removesuffix(".gz")
    if name.endswith(".bin"):
        return "binary"
    return "text" if name.endswith((".txt", ".vec")) else None


def _kind_by_content(path: PathLike) -> str:
    """Tells native, binary and text apart by the first bytes."""
    start = word2vec.peek(path, 4096)
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 32:
        return "native"
    header, _, rest = start.partition(b"\n")
    if not re.fullmatch(rb"\d+[ \t]+\d+[ \t\r]*", header):
        return "text"
    # The numbers of a text row are printable, those of a binary one are not.
    numbers = rest.partition(b" ")[2].partition(b"\n")[0]
    return "text" if re.fullmatch(rb"[\x20-\x7e\t\r]*", numbers) else "binary"


def _write_native(path: PathLike, vectors: KeyedVectors) -> None:
    """Writes safetensors with the matrix, the keys as one UTF-8 blob with offsets, and counts."""
    encoded = [key.encode("utf-8", "surrogateescape") for key in vectors.keys]
    tensors = {
        "matrix": np.ascontiguousarray(vectors.matrix),
        "keys": np.frombuffer(b"".join(encoded), np.uint8),
        "key_offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    }
    if vectors.counts is not None:
        tensors["counts"] = np.ascontiguousarray(vectors.counts)
    with write_atomically(path) as file:
        metadata = {"format": "jaxembed.KeyedVectors", "version": "1"}
        safetensors.numpy.save_file(tensors, os.fspath(file.name), metadata)


def _read_native(path: PathLike, limit: int | None):
    """The keys, matrix and counts (or None) of a native file; reads no more than `limit` rows."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: it must be at least 1, or None to read all.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            names = set(file.keys())
            if not {"matrix", "keys", "key_offsets"} <= names:
                raise ValueError(
                    f"{path}: holds tensors {sorted(names)}, wanted matrix, keys and key_offsets: "
                    "it was not written by KeyedVectors.save."
                )
            matrix = file.get_slice("matrix")[:limit]
            offsets = file.get_slice("key_offsets")[: None if limit is None else limit + 1]
            blob = file.get_slice("keys")[: int(offsets[-1])].tobytes()
            counts = file.get_slice("counts")[:limit] if "counts" in names else None
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); was it cut short?"
        ) from error
    keys = [
        blob[start:end].decode("utf-8", "surrogateescape")
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    return keys, matrix, counts
