"""What indices share that compare codes of all vectors with a query and may rescore the best."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.exact import rescore as score_again
from jaxembed.search.exact import running_top_k
from jaxembed.search.index import Index
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report

Scorer = Callable[[Int[Array, ""], int], Float[Array, "queries size"]]


class CodedIndex(Index):
    """Codes of vectors in the order of `ids`, and the vectors themselves for rescoring, or None.

    A subclass names in `ROWS` the fields that hold a row for each vector, and brings `_fit`,
    `_encode`, `_scorer` and `_measure`.
    """

    ROWS: ClassVar[tuple[str, ...]]
    KEEPS_VECTORS: ClassVar[bool]
    vectors: Float[Array, "size dim"] | None

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        keep_vectors: bool | None = None,
    ) -> "CodedIndex":
        """Makes an index, as `Index.build` says.

        Args:
            vectors: As in `Index.build`.
            metric: As in `Index.build`.
            key: Draws the rotation of `RabitqIndex`; others do not use it.
            ids: As in `Index.build`.
            keep_vectors: Keep the vectors beside the codes, to rescore with them. By default codes
                of one bit a number do, others do not.

        Returns:
            The index.

        Raises:
            ValueError: As `Index.build`.
        """
        return cls._build(vectors, metric, key, ids, keep_vectors)

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        rescore: int = 4,
    ) -> Results:
        """Finds the k best vectors for each query, as `Index.search` says, by their codes.

        Args:
            queries: As in `Index.search`.
            k: As in `Index.search`.
            where: As in `Index.search`.
            rescore: Where the index keeps the vectors, the best `rescore * k` by codes are scored
                again with these; no effect otherwise.

        Returns:
            As `Index.search`. Without the vectors the scores are those of the codes; the class
            says what these are.

        Raises:
            ValueError: As `Index.search`, or if `rescore` is below 1.
        """
        check_search(queries, k, self.dim)
        if rescore < 1:
            raise ValueError(f"rescore is {rescore}: it must be at least 1.")
        return _search(self, queries, where, k=k, rescore=rescore)

    @classmethod
    def _build(cls, vectors, metric, key, ids, keep_vectors, **options):
        """Checks, learns what codes need, and encodes."""
        rows = check_vectors(vectors, metric=metric)
        ids = jnp.asarray(check_ids(ids, len(rows)))
        keeps = cls.KEEPS_VECTORS if keep_vectors is None else keep_vectors
        key = jax.random.key(0) if key is None else key
        fields = cls._fit(rows, key, **options)
        return cls(**fields, vectors=jnp.asarray(rows) if keeps else None, ids=ids, metric=metric)

    @classmethod
    @abc.abstractmethod
    def _fit(cls, rows: np.ndarray, key: jax.Array) -> dict[str, Any]:
        """All fields of an index of some rows but vectors, ids and metric."""

    @abc.abstractmethod
    def _encode(self, rows: np.ndarray) -> dict[str, Any]:
        """The fields `ROWS` for other rows."""

    @abc.abstractmethod
    def _scorer(self, queries: Float[Array, "queries dim"]) -> Scorer:
        """Scores by codes, larger is nearer, for `size` vectors from the one at `first` on."""

    @abc.abstractmethod
    def _measure(self, queries, scores, positions, k):
        """Nearness and positions of the k best of candidates, without the vectors."""

    @property
    def spare(self) -> int:
        """How many candidates more than k `_measure` wants."""
        return 0

    def _append(self, rows, ids):
        added = self._encode(rows) | {"ids": ids}
        if self.vectors is not None:
            added["vectors"] = rows
        joined = {
            name: jnp.asarray(concatenate([getattr(self, name), part]))
            for name, part in added.items()
            if part is not None
        }
        return dataclasses.replace(self, **joined)

    def _keep(self, positions):
        fields = {name: getattr(self, name) for name in (*self.ROWS, "vectors", "ids")}
        return dataclasses.replace(
            self, **{name: rows[positions] for name, rows in fields.items() if rows is not None}
        )


def mean_row(rows: Float[np.ndarray, "size dim"]) -> Float[np.ndarray, "dim"]:
    """The mean of rows, summed in float64."""
    return rows.mean(axis=0, dtype=np.float64).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("k", "rescore"))
def _search(index, queries, where, *, k, rescore):
    """What `CodedIndex.search` returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    mask, score = allowed(where, index.ids), index._scorer(queries)

    def score_block(first, size):
        scores = score(first, size)
        if mask is None:
            return scores
        return jnp.where(lax.dynamic_slice_in_dim(mask, first, size)[None, :], scores, -jnp.inf)

    found = min(k, index.size)
    wanted = k + index.spare if index.vectors is None else k * rescore
    scores, positions = running_top_k(
        score_block, queries.shape[0], index.size, min(wanted, index.size)
    )
    if index.vectors is None:
        scores, positions = index._measure(queries, scores, positions, found)
    else:
        scores, positions = score_again(
            queries, index.vectors, positions, found, metric=index.metric
        )
    return report(scores, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
