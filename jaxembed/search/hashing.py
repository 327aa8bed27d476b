"""Locality-sensitive hashing: sign random projections in packed bits, tables of buckets, a scan."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, Num, UInt32
from numpy.typing import ArrayLike

from jaxembed.search.bits import WORD, pack_bits
from jaxembed.search.checks import Metric, check_ids, check_search, check_vectors, concatenate
from jaxembed.search.index import Index, register_index, static
from jaxembed.search.results import Results, Where, allowed, prepare_queries, report
from jaxembed.search.signs import (
    encode_queries,
    estimate_products,
    orthogonal_directions,
    project,
    sign_codes,
)

# Multi-probe flips subsets of the so many least certain bits of a key.
FLIPPED_BITS = 8
QUERIES_AT_ONCE = 16


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class LSHIndex(Index):
    """Signs of random projections, looked up in several hash tables; the best are scored exactly.

    A code has one bit a random direction. Word t of the code is hashed into table t by its lowest
    bits. A search estimates the scores of all vectors, or of those in the buckets nearest to a
    query, from the codes (population counts of the codes against 4-bit queries), and scores the
    best again with the vectors. For "dot" and "euclidean" the codes are those of the vectors about
    their mean, and the estimates use the stored lengths.

    Attributes:
        vectors: The vectors, of length 1 for the metric "cosine".
        codes: Packed signs, see `sign_codes`.
        lengths: Lengths about the centre.
        centre: The mean at `build`; zeros for the metric "cosine".
        directions: The random directions, orthogonal within each `dim` of them.
        order: Positions of the vectors by table, sorted by bucket.
        starts: Where each bucket starts in `order`, and the end.
        ids: As in `Index`.
        metric: As in `Index`.

    Reference: Charikar, "Similarity estimation techniques from rounding algorithms", 2002; Ji et
    al., "Super-bit locality-sensitive hashing", 2012 (orthogonal directions); Lv et al.,
    "Multi-probe LSH", 2007. Departure: the query is not reduced to signs, only to 4 bits, which
    ranks better at the same size of index.
    """

    vectors: Float[Array, "size dim"]
    codes: UInt32[Array, "size words"]
    lengths: Float[Array, "size"]
    centre: Float[Array, "dim"]
    directions: Float[Array, "bits dim"]
    order: Int[Array, "tables size"]
    starts: Int[Array, "tables buckets_and_end"]
    ids: Int[Array, "size"]
    metric: Metric = static(default="dot")

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        bits: int | None = None,
        tables: int = 8,
        bucket_bits: int | None = None,
    ) -> "LSHIndex":
        """Makes an index, as `Index.build` says, with options of its own.

        Args:
            vectors: As there.
            metric: As there.
            key: Draws the directions; None stands for key 0.
            ids: As there.
            bits: Length of a code, a multiple of 32; by default the dimension rounded up, at least
                256 and at most 1,024.
            tables: Number of hash tables, at most `bits / 32`.
            bucket_bits: Bits of a bucket's number, 1 to 20; by default for 8 vectors a bucket.

        Returns:
            The index.

        Raises:
            ValueError: As there, or if an option is out of range.
        """
        rows = check_vectors(vectors, metric=metric)
        count, dim = rows.shape
        if bits is None:
            bits = min(1024, max(256, -(-dim // WORD) * WORD))
        if bucket_bits is None:
            bucket_bits = min(20, max(1, round(math.log2(count / 8))))
        _check_options(bits, tables, bucket_bits)
        key = jax.random.key(0) if key is None else key
        directions = orthogonal_directions(key, bits, dim)
        centre = np.zeros(dim, np.float32)
        if metric != "cosine":
            centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        ids = jnp.asarray(check_ids(ids, count))
        return _assemble(jnp.asarray(rows), ids, jnp.asarray(centre), directions,
                         tables, bucket_bits, metric)  # fmt: skip

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        probes: int | None = None,
        candidates: int | None = None,
        rescore: int = 10,
    ) -> Results:
        """Finds the k best vectors, as `Index.search` says, by all codes or by some buckets.

        Args:
            queries: As there.
            k: As there.
            where: As there; with it all codes are scanned, since buckets know nothing of it.
            probes: Buckets opened for a query, over all tables; static. By default None: the
                codes of all vectors are scanned, which is faster on a CPU from a recall of about
                .8 on. Buckets go by direction only, so they serve "dot" badly where lengths vary.
            candidates: The most vectors estimated for a query that probes, static; what lies in
                more distant buckets is dropped, see `probe_statistics`. Where it reaches the size
                of the index all are scanned. By default an eighth of the index, at least 4,096.
            rescore: So many times k of the candidates are scored with the vectors; static.

        Returns:
            As there.

        Raises:
            ValueError: As there, or if an option is below 1.
        """
        check_search(queries, k, self.dim)
        candidates = self._budget(candidates)
        _check_counts(probes=1 if probes is None else probes, candidates=candidates)
        _check_counts(rescore=rescore)
        kept = min(self.size, rescore * k)
        if probes is None or where is not None or candidates >= self.size:
            return _scan(self, queries, where, k=k, kept=kept)
        return _search(self, queries, k=k, probes=probes, candidates=candidates, kept=kept)

    def probe_statistics(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        *,
        probes: int,
        candidates: int | None = None,
    ) -> tuple[Int32[Array, "queries"], Int32[Array, "queries"]]:
        """Counts what a search with the same options looks at.

        Args:
            queries: As in `search`.
            probes: As in `search`.
            candidates: As in `search`.

        Returns:
            Vectors found in the opened buckets, one in several tables counted each time, and how
            many of them were dropped because there were more than `candidates`.
        """
        check_search(queries, 1, self.dim)
        _check_counts(probes=probes, candidates=self._budget(candidates))
        found = _count(self, queries, probes)
        return found, jnp.maximum(found - self._budget(candidates), 0)

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.vectors.shape[1]

    def _budget(self, candidates):
        """The most vectors estimated where buckets are probed."""
        return max(4096, self.size // 8) if candidates is None else candidates

    def _append(self, rows, ids):
        vectors, ids = concatenate([self.vectors, rows]), concatenate([self.ids, ids])
        return self._again(jnp.asarray(vectors), jnp.asarray(ids))

    def _keep(self, positions):
        return self._again(self.vectors[positions], self.ids[positions])

    def _again(self, vectors, ids):
        """The same functions over other vectors."""
        tables, bucket_bits = len(self.starts), (self.starts.shape[1] - 1).bit_length() - 1
        return _assemble(vectors, ids, self.centre, self.directions,
                         tables, bucket_bits, self.metric)  # fmt: skip


def _check_options(bits, tables, bucket_bits):
    """Raises ValueError on a code that cannot be made."""
    if bits < WORD or bits % WORD:
        raise ValueError(f"bits is {bits}: wanted a multiple of {WORD}.")
    if not 1 <= tables <= bits // WORD:
        raise ValueError(f"tables is {tables}: wanted 1 to {bits // WORD}, one a word of the code.")
    if not 1 <= bucket_bits <= 20:
        raise ValueError(f"bucket_bits is {bucket_bits}: wanted 1 to 20.")


def _check_counts(**counts):
    """Raises ValueError on an option below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1.")


def _assemble(vectors, ids, centre, directions, tables, bucket_bits, metric):
    """Codes and tables of vectors."""
    codes, lengths = _codes_and_lengths(vectors, centre, directions)
    keys = np.asarray(_keys(codes, tables, bucket_bits)).T  # [tables, size]
    # On the host, where sorting is much faster than in XLA on CPU.
    order = np.argsort(keys, axis=1, kind="stable").astype(np.int32)
    buckets = np.arange(2**bucket_bits + 1)
    starts = [
        np.searchsorted(row[places], buckets) for row, places in zip(keys, order, strict=True)
    ]
    starts = jnp.asarray(np.stack(starts).astype(np.int32))
    return LSHIndex(
        vectors, codes, lengths, centre, directions, jnp.asarray(order), starts, ids, metric
    )


@jax.jit
def _codes_and_lengths(vectors, centre, directions):
    """Codes and lengths about the centre."""
    shifted = vectors - centre[None, :]
    return sign_codes(shifted, directions), jnp.sqrt(jnp.sum(shifted * shifted, axis=1))


def _keys(codes, tables, bucket_bits):
    """The bucket of each code in each table."""
    return (codes[..., :tables] & jnp.uint32(2**bucket_bits - 1)).astype(jnp.int32)


def _projected(index, queries):
    """Projections of prepared queries; only distances are about the centre on both sides."""
    if index.metric == "euclidean":
        queries = queries - index.centre[None, :]
    return project(queries, index.directions)


def _estimate(index, coded, codes, lengths):
    """Estimates one query's nearness to vectors from their codes, [words, vectors]."""
    products = estimate_products(coded, codes, lengths, index.dim)
    return 2.0 * products - lengths * lengths if index.metric == "euclidean" else products


def _score(index, query, positions, estimates, k):
    """Scores one query's candidates with the vectors, and keeps the best."""
    rows = index.vectors[positions]
    if index.metric == "euclidean":
        differences = rows - query[None, :]
        nearness = -jnp.sqrt(jnp.sum(differences * differences, axis=1))
    else:
        nearness = jnp.matmul(rows, query, precision=lax.Precision.HIGHEST)
    nearness = jnp.where(estimates == -jnp.inf, -jnp.inf, nearness)
    nearness, places = lax.top_k(nearness, min(k, len(positions)))
    # Equal scores come lowest position first.
    farness, positions = lax.sort((-nearness, positions[places]), num_keys=2)
    return -farness, positions


@functools.partial(jax.jit, static_argnames=("k", "kept"))
def _scan(index, queries, where, *, k, kept):
    """What `LSHIndex.search` returns where all codes are scanned."""
    queries, is_finite = prepare_queries(queries, index.metric)
    mask, by_word = allowed(where, index.ids), index.codes.T

    def find(query_and_coded):
        query, coded = query_and_coded
        estimates = _estimate(index, coded, by_word, index.lengths)
        if mask is not None:
            estimates = jnp.where(mask, estimates, -jnp.inf)
        estimates, positions = lax.top_k(estimates, kept)
        return _score(index, query, positions, estimates, k)

    inputs = queries, encode_queries(_projected(index, queries))
    nearness, positions = lax.map(find, inputs, batch_size=QUERIES_AT_ONCE)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def _ranges(index, projected, probes):
    """The buckets nearest to each query: table, start, length, number; [queries, probes]."""
    tables, bucket_bits = len(index.starts), (index.starts.shape[1] - 1).bit_length() - 1
    flipped = min(FLIPPED_BITS, bucket_bits)
    count = projected.shape[0]
    margins = projected.reshape(count, -1, WORD)[:, :tables, :bucket_bits]
    keys = _keys(pack_bits(projected >= 0), tables, bucket_bits)  # [queries, tables]
    costs, bits = lax.top_k(-jnp.abs(margins), flipped)  # the least certain bits
    subsets = np.arange(2**flipped)[None, :] >> np.arange(flipped)[:, None] & 1  # [bits, subsets]
    # Lv et al., section 4.4: the likelihood of a bucket falls with the sum of squared margins.
    costs = jnp.matmul(
        costs * costs, jnp.asarray(subsets, jnp.float32), precision=lax.Precision.HIGHEST
    )
    flips = (jnp.left_shift(1, bits)[..., None] * subsets[None, None]).sum(axis=2)
    probes = min(probes, tables * 2**flipped)
    _, chosen = lax.top_k(-costs.reshape(count, -1), probes)
    table = chosen // 2**flipped
    opened = (keys[:, :, None] ^ flips).reshape(count, -1)
    bucket = jnp.take_along_axis(opened, chosen, axis=1)
    start = index.starts[table, bucket]
    return table, start, index.starts[table, bucket + 1] - start, bucket


@functools.partial(jax.jit, static_argnums=2)
def _count(index, queries, probes):
    """How many vectors the opened buckets hold."""
    queries, _ = prepare_queries(queries, index.metric)
    return _ranges(index, _projected(index, queries), probes)[2].sum(axis=1)


@functools.partial(jax.jit, static_argnames=("k", "probes", "candidates", "kept"))
def _search(index, queries, *, k, probes, candidates, kept):
    """What `LSHIndex.search` returns where buckets are probed."""
    queries, is_finite = prepare_queries(queries, index.metric)
    projected = _projected(index, queries)
    tables, buckets = len(index.starts), index.starts.shape[1] - 1
    kept = min(kept, candidates)

    def find(inputs):
        query, coded, (table, start, length, bucket) = inputs
        ends = jnp.cumsum(length)
        slots = jnp.arange(candidates, dtype=jnp.int32)
        probe = jnp.searchsorted(ends, slots, side="right").astype(jnp.int32)
        is_filled = slots < ends[-1]
        probe = jnp.minimum(probe, len(ends) - 1)
        places = start[probe] + slots - (ends - length)[probe]
        positions = index.order[table[probe], jnp.where(is_filled, places, 0)]
        codes = index.codes[positions]
        # A vector counts in the first of its tables whose bucket is whole within the budget; in the
        # one bucket that is cut off, only if it is in no other.
        is_whole = ends <= candidates
        is_opened = jnp.zeros((tables, buckets), bool).at[table, bucket].set(is_whole)
        numbers = jnp.arange(tables)[None, :]
        in_opened = is_opened[numbers, _keys(codes, tables, buckets.bit_length() - 1)]
        before = jnp.where(is_whole, table, tables)[probe]
        is_first = ~jnp.any(in_opened & (numbers < before[:, None]), axis=1)
        estimates = _estimate(index, coded, codes.T, index.lengths[positions])
        estimates = jnp.where(is_filled & is_first, estimates, -jnp.inf)
        estimates, places = lax.top_k(estimates, kept)
        return _score(index, query, positions[places], estimates, k)

    inputs = queries, encode_queries(projected), _ranges(index, projected, probes)
    nearness, positions = lax.map(find, inputs, batch_size=QUERIES_AT_ONCE)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
