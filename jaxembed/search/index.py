"""What every index shares: the protocol."""

import abc
import dataclasses
import os
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search import storage
from jaxembed.search.checks import Metric, check_ids, check_vectors, positions_of
from jaxembed.search.results import Results, Where

PathLike = str | os.PathLike[str]
_Class = TypeVar("_Class", bound=type)


def static(**options: Any) -> Any:
    """Declares a dataclass field that is part of the tree's structure: a number, string or tuple.

    Args:
        **options: Those of `dataclasses.field`.

    Returns:
        The field.
    """
    return dataclasses.field(metadata={"static": True}, **options)


def register_index(cls: _Class) -> _Class:
    """Registers a frozen dataclass as a pytree: fields made by `static` are its structure.

    Unlike `jax.tree_util.register_dataclass` it rebuilds without calling `__init__`, so that trees
    of shapes, shardings or stacked indices pass where arrays of certain ranks are annotated.

    Args:
        cls: A frozen dataclass.

    Returns:
        The same class.
    """
    fields = dataclasses.fields(cls)
    data = [field.name for field in fields if not field.metadata.get("static")]
    meta = [field.name for field in fields if field.metadata.get("static")]

    def flatten_with_keys(tree):
        children = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in data]
        return children, tuple(getattr(tree, name) for name in meta)

    def flatten(tree):
        return [getattr(tree, name) for name in data], tuple(getattr(tree, name) for name in meta)

    def unflatten(values, children):
        tree = object.__new__(cls)
        for name, value in (*zip(meta, values, strict=True), *zip(data, children, strict=True)):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Index(abc.ABC):
    """Vectors prepared for top-k search: an immutable pytree.

    A subclass is decorated with `register_index` over `dataclasses.dataclass(frozen=True,
    eq=False)`. Its fields are arrays, None, or `static` numbers, strings and tuples of them; two of
    them are `ids` and `metric`. It brings `build`, `search`, `dim`, `_append` and `_keep`.

    Attributes:
        ids: The caller's own numbers of the vectors, int32, distinct, not negative.
        metric: "dot" and "cosine" scores are better the larger, 0 where a cosine is with a zero
            vector; "euclidean" scores are distances, better the smaller.
    """

    ids: Int[Array, "size"]
    metric: Metric

    @classmethod
    @abc.abstractmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
    ) -> "Index":
        """Makes an index; not traceable, because it looks at the values.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Where the index draws random numbers, their key; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.

        Returns:
            The index.

        Raises:
            ValueError: On NaN or infinite values, duplicate or negative ids, or wrong shapes.
        """

    @abc.abstractmethod
    def search(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> Results:
        """Finds the k best vectors for each query; pure and traceable with `k` static.

        Args:
            queries: Query vectors. One with a NaN or infinity finds nothing.
            k: Number of results for each query, at least 1; it may exceed the number of vectors.
            where: Which vectors may be found: a mask in the order of `index.ids`, or a pair
                (first, end) of ids, `end` itself excluded. Applied before k.

        Returns:
            Scores and ids, best first; equal scores come in the order of `index.ids`. Missing
            places have id -1 and the worst score: -inf, for euclidean +inf.

        Raises:
            ValueError: If k is below 1 or shapes disagree.
        """

    @property
    def size(self) -> int:
        """The number of vectors."""
        return self.ids.shape[0]

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The number of dimensions of vectors and queries."""

    def add(self, vectors: ArrayLike, *, ids: ArrayLike | None = None) -> "Index":
        """Makes an index that holds more vectors, without training anew.

        Args:
            vectors: A row each.
            ids: Their ids, none of them in use; by default they follow the largest in use.

        Returns:
            The new index.

        Raises:
            ValueError: If an id is in use, or as `build` says.
        """
        rows = check_vectors(vectors, metric=self.metric, dim=self.dim)
        known = np.asarray(self.ids)
        if ids is None:
            start = int(known.max(initial=-1)) + 1
            ids = np.arange(start, start + len(rows), dtype=np.int64)
        ids = check_ids(ids, len(rows))
        if (is_used := np.isin(ids, known)).any():
            raise ValueError(
                f"id {ids[is_used][0]} is in the index already: give new ids, or call update."
            )
        return self._append(rows, ids)

    def remove(self, ids: ArrayLike) -> "Index":
        """Makes an index without some vectors.

        Args:
            ids: Distinct ids of vectors in the index.

        Returns:
            The new index.

        Raises:
            KeyError: If an id is not in the index.
            ValueError: If an id comes twice, or no vector would be left.
        """
        positions = positions_of(self.ids, ids)
        if len(positions) == self.size:
            raise ValueError(f"All {self.size} vectors would go: an index holds at least one.")
        return self._keep(np.delete(np.arange(self.size), positions))

    def update(self, ids: ArrayLike, vectors: ArrayLike) -> "Index":
        """Makes an index in which some ids stand for other vectors.

        Args:
            ids: Distinct ids of vectors in the index.
            vectors: The row that each shall have.

        Returns:
            The new index; the order of its `ids` may differ.

        Raises:
            KeyError: If an id is not in the index.
            ValueError: If an id comes twice, or as `build` says.
        """
        positions = positions_of(self.ids, ids)
        rows = check_vectors(vectors, metric=self.metric, dim=self.dim)
        if len(rows) != len(positions):
            raise ValueError(f"{len(positions)} ids but {len(rows)} vectors: give one row an id.")
        return self._replace(positions, rows)

    def save(self, path: PathLike) -> None:
        """Writes a directory of an index.json and a .npy file an array; it appears whole or not.

        Args:
            path: The directory. An index that is there is replaced, anything else refused.

        Raises:
            ValueError: If something else is there.
            OSError: If it cannot be written.
        """
        arrays, metadata = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("static") or value is None:
                metadata[field.name] = value
            else:
                arrays[field.name] = np.asarray(value)
        storage.write_directory(path, type(self).__name__, metadata, arrays)

    @classmethod
    def load(cls, path: PathLike) -> "Index":
        """Reads what `save` wrote.

        Args:
            path: The directory.

        Returns:
            The index, on the default device.

        Raises:
            FileNotFoundError: If there is no such directory.
            ValueError: If it is damaged, altered, foreign, or holds another kind of index.
        """
        index = storage.load_index(path)
        if not isinstance(index, cls):
            raise ValueError(
                f"{os.fspath(path)} holds a {type(index).__name__}, not a {cls.__name__}: load it "
                f"with {type(index).__name__}.load or load_index."
            )
        return index

    def memory_bytes(self) -> int:
        """Adds up the bytes of all arrays of the index."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    @abc.abstractmethod
    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "Index":
        """Adds checked rows (of length 1 for cosine) and their ids."""

    @abc.abstractmethod
    def _keep(self, positions: np.ndarray) -> "Index":
        """Keeps the vectors at these places of `ids`, ascending."""

    def _replace(self, positions: np.ndarray, rows: np.ndarray) -> "Index":
        """Puts checked rows in place of those at some places of `ids`."""
        ids = np.asarray(self.ids)[positions]
        rest = np.delete(np.arange(self.size), positions)
        if len(rest):
            return self._keep(rest)._append(rows, ids)
        # Nothing would be left for a moment: add under other ids, which are then set right.
        spare = np.setdiff1d(np.arange(2 * self.size), np.asarray(self.ids))[: self.size]
        both = self._append(rows, spare.astype(np.int32))
        grown = both._keep(np.flatnonzero(np.isin(np.asarray(both.ids), spare)))
        order = np.searchsorted(spare, np.asarray(grown.ids))
        return dataclasses.replace(grown, ids=jnp.asarray(ids[order]))
