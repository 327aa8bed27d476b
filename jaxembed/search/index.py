"""What every index shares: the protocol, the checks at its edge, and how results are reported."""

import abc
import dataclasses
import operator
import os
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search import storage
from jaxembed.search.similarity import unit_rows

Metric = Literal["dot", "cosine", "euclidean"]
Where = Bool[Array | np.ndarray, "mask"] | tuple[Any, Any] | None
Results = tuple[Float[Array, "queries k"], Int[Array, "queries k"]]
PathLike = str | os.PathLike[str]
LARGEST_ID = np.iinfo(np.int32).max
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


def check_vectors(
    vectors: ArrayLike, *, metric: Metric, dim: int | None = None
) -> Float[np.ndarray, "size dim"]:
    """Checks the rows of an index and brings them into the form that it stores.

    Args:
        vectors: A row each.
        metric: "cosine" scales the rows to length 1.
        dim: The number of dimensions wanted; None takes any.

    Returns:
        The rows in float32, on the host.

    Raises:
        ValueError: On an unknown metric, a wrong shape, or a row that is not finite.
    """
    check_metric(metric)
    rows = np.asarray(vectors)
    if rows.ndim != 2 or 0 in rows.shape or (dim is not None and rows.shape[1] != dim):
        wanted = "any number" if dim is None else dim
        raise ValueError(
            f"The vectors have shape {rows.shape}: wanted at least one row of {wanted} of numbers."
        )
    if not (np.issubdtype(rows.dtype, np.number) or rows.dtype == jnp.bfloat16):
        raise ValueError(f"The vectors are of dtype {rows.dtype}: wanted real numbers.")
    if np.iscomplexobj(rows):
        raise ValueError(f"The vectors are of dtype {rows.dtype}: wanted real numbers.")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    is_finite = np.isfinite(rows).all(axis=1)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise ValueError(
            f"Row {row} of the vectors has a NaN or an infinity (in float32): {(~is_finite).sum()} "
            f"of {len(rows)} rows have. Remove or mend them first."
        )
    return np.asarray(_unit_rows(rows)) if metric == "cosine" else rows


def check_metric(metric: str) -> None:
    """Raises ValueError on an unknown metric."""
    if metric not in get_args(Metric):
        raise ValueError(f"Unknown metric {metric!r}: choose one of {', '.join(get_args(Metric))}.")


def check_ids(ids: ArrayLike | None, count: int) -> Int[np.ndarray, "size"]:
    """Checks the caller's ids.

    Args:
        ids: Distinct integers from 0 to 2^31 - 1; None stands for 0 to count - 1.
        count: How many are wanted.

    Returns:
        The ids in int32, on the host.

    Raises:
        ValueError: If they are not that.
    """
    given = np.arange(count) if ids is None else np.asarray(ids)
    if given.shape != (count,) or not (np.issubdtype(given.dtype, np.integer) or count == 0):
        raise ValueError(
            f"The ids have shape {given.shape} and dtype {given.dtype}: wanted one integer for "
            f"each of the {count} vectors; keep strings in a KeyedVectors."
        )
    if count and (given.min() < 0 or given.max() > LARGEST_ID):
        wrong = given[(given < 0) | (given > LARGEST_ID)][0]
        raise ValueError(f"id {wrong} is out of range: wanted 0 to {LARGEST_ID}.")
    values, counts = np.unique(given, return_counts=True)
    if len(values) < count:
        raise ValueError(f"id {values[counts > 1][0]} comes more than once: ids must be distinct.")
    return given.astype(np.int32)


def positions_of(known: ArrayLike, ids: ArrayLike) -> Int[np.ndarray, "count"]:
    """Finds where ids stand in an index.

    Args:
        known: The ids of the index.
        ids: Distinct ids, each of them in the index.

    Returns:
        The place of each.

    Raises:
        KeyError: If an id is not in the index.
        ValueError: If an id comes twice or is no integer.
    """
    known, ids = np.asarray(known), np.atleast_1d(np.asarray(ids))
    ids = check_ids(ids, ids.size)
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    if (is_unknown := known[places] != ids).any():
        named = ", ".join(map(str, ids[is_unknown][:5]))
        raise KeyError(
            f"{is_unknown.sum()} of {len(ids)} ids are not in the index of {len(known)}: {named}."
        )
    return places


def check_search(queries: Num[Array | np.ndarray, "queries dim"], k: int, dim: int) -> None:
    """Checks what every search is given; looks at static shapes only.

    Args:
        queries: Query vectors.
        k: Number of results for each query.
        dim: The index's number of dimensions.

    Raises:
        ValueError: If k is below 1 or the queries have another number of dimensions.
    """
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(
            f"The queries have shape {queries.shape}: wanted rows of {dim} numbers, as the index."
        )
    if operator.index(k) < 1:
        raise ValueError(f"k is {k}: it must be at least 1.")


def prepare_queries(
    queries: Num[Array | np.ndarray, "queries dim"], metric: Metric
) -> tuple[Float[Array, "queries dim"], Bool[Array, "queries"]]:
    """Brings queries into the form that the metric scores.

    Args:
        queries: Query vectors.
        metric: "cosine" scales them to length 1.

    Returns:
        The queries in float32, zeros in place of those that are not finite, and a mask that is
        False for these.
    """
    queries = jnp.asarray(queries).astype(jnp.float32)
    is_finite = jnp.isfinite(queries).all(axis=1)
    queries = jnp.where(is_finite[:, None], queries, 0.0)
    return (unit_rows(queries) if metric == "cosine" else queries), is_finite


def allowed(where: Where, ids: Int[Array, "size"]) -> Bool[Array, "size"] | None:
    """Turns the `where` of a search into a mask over the vectors.

    Args:
        where: A mask in the order of `ids`, a pair (first, end) of ids, or None.
        ids: The ids of the index.

    Returns:
        The mask, or None where all vectors may be found.

    Raises:
        ValueError: If a mask has another length.
    """
    if where is None:
        return None
    if isinstance(where, tuple):
        first, end = where
        return (ids >= first) & (ids < end)
    if where.shape != ids.shape:
        raise ValueError(
            f"where has shape {where.shape}: wanted a mask of {ids.shape[0]} in the order of "
            "index.ids, or a pair (first id, id after the last)."
        )
    return jnp.asarray(where)


def report(
    nearness: Float[Array, "queries found"],
    positions: Int[Array, "queries found"],
    ids: Int[Array, "size"] | None,
    k: int,
    *,
    metric: Metric,
    is_finite: Bool[Array, "queries"] | None = None,
) -> Results:
    """Turns what a search found into what it returns.

    Args:
        nearness: Best first, larger is better: for euclidean minus the distance. -inf where nothing
            was found.
        positions: Places in `ids`; any value where the nearness is -inf.
        ids: The ids of the index; None reports the positions themselves.
        k: How many results are wanted, more or fewer than were found.
        metric: What the scores shall mean.
        is_finite: False for queries that find nothing.

    Returns:
        Scores and ids, as `Index.search` says.
    """
    padding = ((0, 0), (0, max(0, k - nearness.shape[1])))
    nearness = jnp.pad(nearness[:, :k], padding, constant_values=-jnp.inf)
    positions = jnp.pad(positions[:, :k], padding)
    is_missing = nearness == -jnp.inf
    if is_finite is not None:
        is_missing |= ~is_finite[:, None]
    worst = jnp.inf if metric == "euclidean" else -jnp.inf
    # Adding 0 makes a distance of -0 a plain 0.
    scores = 0.0 - nearness if metric == "euclidean" else nearness
    found = positions if ids is None else ids[jnp.where(is_missing, 0, positions)]
    return jnp.where(is_missing, worst, scores), jnp.where(is_missing, -1, found)


def concatenate(arrays: Sequence[ArrayLike]) -> np.ndarray:
    """Joins arrays along the first axis on the host, in the dtype of the first."""
    first, *rest = map(np.asarray, arrays)
    return np.concatenate([first, *(part.astype(first.dtype) for part in rest)])


_unit_rows = jax.jit(unit_rows)
