"""Top-k search over vectors, or pages of lists, that lie on several devices."""

import dataclasses
import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from jaxembed.search.checks import Metric, check_search
from jaxembed.search.exact import ExactIndex, exact_top_k
from jaxembed.search.inverted import PagedIndex
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report

_Paged = TypeVar("_Paged", bound=PagedIndex)


def sharded_search(
    index: ExactIndex,
    queries: Num[Array | np.ndarray, "queries dim"],
    k: int,
    *,
    mesh: Mesh,
    axis: str = "data",
    where: Where = None,
) -> Results:
    """Finds what `index.search` finds, each device of a mesh axis scoring its part of the vectors.

    Pure and traceable with `k`, `mesh` and `axis` static. Only the k best of each device travel.

    Args:
        index: The index; put it on the mesh once with `shard_rows`, or it is at every call.
        queries: As in `Index.search`; every device gets all of them.
        k: As in `Index.search`.
        mesh: Devices.
        axis: The mesh axis that the vectors are spread over.
        where: As in `Index.search`.

    Returns:
        Scores and ids as `index.search` returns them.

    Raises:
        ValueError: If k is below 1, shapes disagree or the mesh has no such axis.
    """
    check_search(queries, k, index.dim)
    if axis not in mesh.shape:
        raise ValueError(f"The mesh has axes {mesh.axis_names}, not {axis!r}.")
    return _search(index, queries, where, k=k, mesh=mesh, axis=axis)


def shard_rows(index: ExactIndex, mesh: Mesh, axis: str = "data") -> ExactIndex:
    """Spreads the vectors of an index over a mesh axis, as far as their number divides.

    Args:
        index: The index.
        mesh: Devices.
        axis: The mesh axis.

    Returns:
        The index; whole on every device where its size is not a multiple of the axis.
    """
    rows = axis if index.size % mesh.shape[axis] == 0 else None
    vectors = jax.device_put(index.vectors, NamedSharding(mesh, PartitionSpec(rows, None)))
    ids = jax.device_put(index.ids, NamedSharding(mesh, PartitionSpec()))
    return ExactIndex(vectors, ids, index.metric)


def shard_pages(index: _Paged, mesh: Mesh, axis: str = "data") -> _Paged:
    """Spreads the pages of inverted lists or codes over a mesh axis; all else is on every device.

    `search` of the result finds the same: XLA divides the work. Empty pages are added up to a
    multiple of the axis.

    Args:
        index: An index of pages: IVFIndex, IVFPQIndex, PQIndex or ScannIndex.
        mesh: Devices.
        axis: The mesh axis.

    Returns:
        The index.
    """
    padding = -index.slots.shape[0] % mesh.shape[axis]
    content = "vectors" if index._content is getattr(index, "vectors", None) else "codes"
    spread = {}
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if field.metadata.get("static") or value is None:
            continue
        spec = PartitionSpec()
        if field.name in ("slots", "page_lists", "half_squares", content):
            spec = PartitionSpec(axis)
            empty = -1 if field.name == "slots" else 0
            widths = [(0, padding)] + [(0, 0)] * (value.ndim - 1)
            value = jnp.pad(value, widths, constant_values=empty)
        spread[field.name] = jax.device_put(value, NamedSharding(mesh, spec))
    return dataclasses.replace(index, **spread)


def sharded_top_k(
    queries: Float[Array, "queries dim"],
    vectors: Float[Array, "count dim"],
    k: int,
    *,
    mesh: Mesh,
    axis: str = "data",
    metric: Metric = "dot",
    where: Bool[Array, "count"] | None = None,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Finds what `exact_top_k` finds, each device scoring its part of the vectors.

    Args:
        queries: Query vectors.
        vectors: Vectors to search; filled up to a multiple of the devices.
        k: Number of results for each query, from 1 to `count`.
        mesh: Devices.
        axis: The mesh axis that the vectors are spread over.
        metric: As in `exact_top_k`.
        where: False for vectors that no query may find.

    Returns:
        As `exact_top_k`.
    """
    count, parts = vectors.shape[0], mesh.shape[axis]
    padding = -count % parts
    where = jnp.ones(count, bool) if where is None else where
    if padding:
        vectors = jnp.pad(vectors, ((0, padding), (0, 0)))
        where = jnp.pad(where, (0, padding))
    size = (count + padding) // parts

    def search_part(queries, vectors, where):
        scores, found = exact_top_k(queries, vectors, min(k, size), metric=metric, where=where)
        found = jnp.where(found < 0, -1, found + lax.axis_index(axis).astype(jnp.int32) * size)
        # Parts come in the order of the devices, so that equals come lowest position first.
        scores = lax.all_gather(scores, axis, axis=1, tiled=True)  # [queries, parts * k]
        found = lax.all_gather(found, axis, axis=1, tiled=True)
        scores, places = lax.top_k(scores, k)
        return scores, jnp.take_along_axis(found, places, axis=1)

    rows, everywhere = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(
        search_part,
        mesh=mesh,
        in_specs=(everywhere, rows, rows),
        out_specs=everywhere,
        check_vma=False,
    )(queries, vectors, where)


@functools.partial(jax.jit, static_argnames=("k", "mesh", "axis"))
def _search(index, queries, where, *, k, mesh, axis):
    """What `sharded_search` returns."""
    queries, is_finite = prepare_queries(queries, index.metric)
    nearness, positions = sharded_top_k(
        queries,
        index.vectors,
        min(k, index.size),
        mesh=mesh,
        axis=axis,
        metric="dot" if index.metric == "cosine" else index.metric,
        where=allowed(where, index.ids),
    )
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
