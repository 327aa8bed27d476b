"""IVFIndex: vectors in lists around k-means centroids, of which a search scans the nearest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from jaxembed.search.checks import Metric, check_ids, check_vectors, concatenate
from jaxembed.search.index import register_index, static
from jaxembed.search.inverted import (
    InvertedIndex,
    assign_lists,
    calibrate_probes,
    centred,
    check_centroids,
    layout_fields,
    make_centroids,
    unpack,
)
from jaxembed.search.pages import fill, lay_out


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class IVFIndex(InvertedIndex):
    """Whole vectors in inverted lists; scores are exact, a neighbour in no probed list is missed.

    Attributes:
        ids: As of every index.
        centroids: Of the lists; for euclidean after `centre` was taken away.
        centre: The mean of the vectors for euclidean, otherwise zeros. Distances are computed
            around it.
        vectors: The rows of each page, zeros in empty slots.
        half_squares: For euclidean half the square of the length of each row, otherwise None.
        slots: Which place in `ids` lies in each slot, -1 in empty ones.
        page_lists: The list of each page.
        first_pages: The first page of each list.
        page_counts: The number of pages of each list.
        longest: The largest of `page_counts`.
        probes: How many lists a search scans if it is not told.
        metric: As of every index.
    """

    ids: Int[Array, "size"]
    centroids: Float[Array, "lists dim"]
    centre: Float[Array, "dim"]
    vectors: Float[Array, "pages page dim"]
    half_squares: Float[Array, "pages page"] | None
    slots: Int[Array, "pages page"]
    page_lists: Int[Array, "pages"]
    first_pages: Int[Array, "lists"]
    page_counts: Int[Array, "lists"]
    longest: int = static()
    probes: int = static()
    metric: Metric = static()

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        lists: int | None = None,
        probes: int | None = None,
        centroids: ArrayLike | None = None,
        iterations: int = 10,
    ) -> "IVFIndex":
        """Clusters the vectors and lays out their lists; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            lists: The number of lists; by default the square root of the number of vectors.
            probes: How many lists a search scans if it is not told; by default the fewest with
                which 256 of the vectors themselves find .95 of their 10 neighbours.
            centroids: Of the lists, in place of k-means.
            iterations: Of k-means.

        Returns:
            The index.

        Raises:
            ValueError: On NaN or infinite values, duplicate or negative ids, wrong shapes, or
                fewer than one list or probe.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        given = None if centroids is None else check_centroids(centroids, centre, rows.shape[1])
        spherical = metric == "cosine"
        found = make_centroids(rows, key, lists, given, iterations, spherical=spherical)
        if probes is None:
            probes = calibrate_probes(rows, found, metric)
        elif probes < 1:
            raise ValueError(f"probes is {probes}: it must be at least 1.")
        assignments = assign_lists(rows, found, metric)
        return assemble_ivf(cls, rows, assignments, ids, found, centre, probes, metric)

    @property
    def _content(self):
        return self.vectors

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The vectors in the order of `ids`, of length 1 for cosine; on the host."""
        return unpack(self.slots, self.vectors, self.size) + np.asarray(self.centre)

    def _decode(self, stored, lists):
        return stored

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "IVFIndex":
        rows = rows - np.asarray(self.centre)
        return self._again(
            concatenate([unpack(self.slots, self.vectors, self.size), rows]),
            concatenate([self.assignments(), assign_lists(rows, self.centroids, self.metric)]),
            concatenate([self.ids, ids]),
        )

    def _keep(self, positions: np.ndarray) -> "IVFIndex":
        rows = unpack(self.slots, self.vectors, self.size)[positions]
        return self._again(rows, self.assignments()[positions], np.asarray(self.ids)[positions])

    def _again(self, rows, lists, ids):
        fields = self.centroids, self.centre, self.probes, self.metric
        return assemble_ivf(type(self), rows, lists, ids, *fields)


def assemble_ivf(cls, rows, assignments, ids, centroids, centre, probes, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(assignments, centroids.shape[0])
    vectors = fill(layout, rows)
    half = 0.5 * (vectors * vectors).sum(axis=2) if metric == "euclidean" else None
    return cls(
        ids=jnp.asarray(ids),
        centroids=jnp.asarray(centroids),
        centre=jnp.asarray(centre),
        vectors=jnp.asarray(vectors),
        half_squares=None if half is None else jnp.asarray(half),
        **layout_fields(layout),
        probes=int(probes),
        metric=metric,
    )
