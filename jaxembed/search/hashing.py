"""Locality-sensitive hashing: sign random projections in packed bits, tables of buckets, a scan."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32, Num, UInt32
from numpy.typing import ArrayLike

from jaxembed.search.index import (
    Index,
    Metric,
    Results,
    Where,
    allowed,
    check_ids,
    check_search,
    check_vectors,
    concatenate,
    prepare_queries,
    register_index,
    report,
    static,
)

WORD = 32
# Queries are quantized to so many bits a projection, one packed word a bit.
QUERY_PLANES = 4
# Multi-probe flips subsets of the so many least certain bits of a key.
FLIPPED_BITS = 8
QUERIES_AT_ONCE = 16


class Coded(NamedTuple):
    """Queries as the estimator wants them: 4-bit projections, bit by bit in packed words.

    Attributes:
        planes: Bit j of the projections' levels.
        step: Size of a level.
        offset: What a code without ones scores, in steps of 1.
    """

    planes: UInt32[Array, "queries planes words"]
    step: Float[Array, "queries"]
    offset: Float[Array, "queries"]


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
        queries, _ = prepare_queries(queries, self.metric)
        found = _ranges(self, _projected(self, queries), probes)[2].sum(axis=1)
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


def gaussian_directions(key: jax.Array, count: int, dim: int) -> Float32[Array, "count dim"]:
    """Draws independent directions, for which `collision_probability` is exact at any length.

    Args:
        key: Random key.
        count: How many.
        dim: Dimensions.

    Returns:
        Unit vectors.
    """
    rows = jax.random.normal(key, (count, dim))
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def orthogonal_directions(key: jax.Array, count: int, dim: int) -> Float32[Array, "count dim"]:
    """Draws directions that are orthogonal within each `dim` of them.

    Each alone is uniform, so one bit collides as `collision_probability` says; the number of equal
    bits has a smaller variance than with independent directions (Ji et al. 2012, theorem 2).

    Args:
        key: Random key.
        count: How many.
        dim: Dimensions.

    Returns:
        Unit vectors.
    """
    blocks = jax.random.normal(key, (-(-count // dim), dim, dim))
    rotations, triangles = jnp.linalg.qr(blocks)
    # Signs of the diagonal make the rotations uniform whatever the library's convention.
    signs = jnp.where(jnp.diagonal(triangles, axis1=1, axis2=2) < 0, -1.0, 1.0)
    return (rotations * signs[:, None, :]).transpose(0, 2, 1).reshape(-1, dim)[:count]


def sign_codes(
    vectors: Float[Array, "count dim"], directions: Float[Array, "bits dim"]
) -> UInt32[Array, "count words"]:
    """Packs the signs of projections: bit 1 where a vector lies on the side of the direction.

    Args:
        vectors: Vectors; a zero vector has all ones.
        directions: A multiple of 32 directions.

    Returns:
        Codes; bit i of word w stands for direction `32 w + i`.

    Raises:
        ValueError: If the number of directions is not a multiple of 32.
    """
    if directions.shape[0] % WORD:
        raise ValueError(f"{directions.shape[0]} directions: wanted a multiple of {WORD}.")
    return _pack(_dot(vectors, directions.T) >= 0)


def hamming_distances(
    first: UInt32[Array, "*batch words"], second: UInt32[Array, "*batch words"]
) -> Int32[Array, "*batch"]:
    """Counts differing bits of packed codes.

    Args:
        first: Codes.
        second: Codes.

    Returns:
        0 to 32 times the number of words.
    """
    return lax.population_count(first ^ second).astype(jnp.int32).sum(axis=-1)


def collision_probability(
    cosines: float | Float[Array | np.ndarray, "*batch"], *, bits: int = 1, tables: int = 1
) -> Float[Array, "*batch"]:
    """States the probability that two vectors share a bucket in at least one table.

    Args:
        cosines: Their cosines.
        bits: Bits of a key, of independent directions.
        tables: Number of tables.

    Returns:
        1 - (1 - (1 - angle / pi)^bits)^tables.

    Reference: Goemans & Williamson 1995, lemma 3.2; Charikar 2002, section 3.
    """
    share = 1.0 - jnp.arccos(jnp.clip(cosines, -1.0, 1.0)) / jnp.pi
    return 1.0 - (1.0 - share**bits) ** tables


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


def _dot(first, second):
    return jnp.matmul(first, second, precision=lax.Precision.HIGHEST)


def _pack(is_one):
    """Bits of the last axis in words of 32."""
    split = is_one.reshape(*is_one.shape[:-1], -1, WORD)
    powers = jnp.asarray(np.uint32(1) << np.arange(WORD, dtype=np.uint32))
    weighted = jnp.where(split, powers.reshape((1,) * (split.ndim - 1) + (WORD,)), jnp.uint32(0))
    return weighted.sum(axis=-1, dtype=jnp.uint32)


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
    return _dot(queries, index.directions.T)


def _encode(projected):
    """Quantizes projections to levels, symmetric about 0."""
    top = 2**QUERY_PLANES - 1
    limit = jnp.max(jnp.abs(projected), axis=1)
    limit = jnp.where(limit == 0, 1.0, limit)
    levels = jnp.round((projected / limit[:, None] + 1.0) * (top / 2)).astype(jnp.uint32)
    planes = [_pack(levels >> jnp.uint32(bit) & jnp.uint32(1) == 1) for bit in range(QUERY_PLANES)]
    # A level stands for (2 level / top - 1) limit, a code's bit for 2 bit - 1.
    offset = projected.shape[1] - 2.0 / top * levels.sum(axis=1, dtype=jnp.uint32).astype(
        jnp.float32
    )
    return Coded(jnp.stack(planes, axis=1), limit, offset)


def _estimate(index, coded, codes, lengths):
    """Estimates one query's nearness to vectors from their codes, [words, vectors]."""
    # Word by word over many vectors: a sum along the last axis is six times slower on CPU.
    ones, weighted = jnp.zeros((2, codes.shape[1]), jnp.uint32)
    for word, bits in enumerate(codes):
        ones += lax.population_count(bits)
        for plane in range(QUERY_PLANES):
            shared = lax.population_count(bits & coded.planes[plane, word])
            weighted += shared << jnp.uint32(plane)
    top = 2**QUERY_PLANES - 1
    products = 4.0 / top * weighted.astype(jnp.float32) - 2.0 * ones.astype(jnp.float32)
    bits, dim = index.directions.shape
    # A projection on a random direction has a mean absolute value of sqrt(2 / (pi dim)).
    scale = coded.step * (math.sqrt(math.pi * dim / 2) / bits)
    products = (products + coded.offset) * (scale * lengths)
    return 2.0 * products - lengths * lengths if index.metric == "euclidean" else products


def _score(index, query, positions, estimates, k):
    """Scores one query's candidates with the vectors, and keeps the best."""
    rows = index.vectors[positions]
    if index.metric == "euclidean":
        differences = rows - query[None, :]
        nearness = -jnp.sqrt(jnp.sum(differences * differences, axis=1))
    else:
        nearness = _dot(rows, query)
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

    inputs = queries, _encode(_projected(index, queries))
    nearness, positions = lax.map(find, inputs, batch_size=QUERIES_AT_ONCE)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def _ranges(index, projected, probes):
    """The buckets nearest to each query: table, start, length, number; [queries, probes]."""
    tables, bucket_bits = len(index.starts), (index.starts.shape[1] - 1).bit_length() - 1
    flipped = min(FLIPPED_BITS, bucket_bits)
    count = projected.shape[0]
    margins = projected.reshape(count, -1, WORD)[:, :tables, :bucket_bits]
    keys = _keys(_pack(projected >= 0), tables, bucket_bits)  # [queries, tables]
    costs, bits = lax.top_k(-jnp.abs(margins), flipped)  # the least certain bits
    subsets = np.arange(2**flipped)[None, :] >> np.arange(flipped)[:, None] & 1  # [bits, subsets]
    # Lv et al., section 4.4: the likelihood of a bucket falls with the sum of squared margins.
    costs = _dot(costs * costs, jnp.asarray(subsets, jnp.float32))
    flips = (jnp.left_shift(1, bits)[..., None] * subsets[None, None]).sum(axis=2)
    probes = min(probes, tables * 2**flipped)
    _, chosen = lax.top_k(-costs.reshape(count, -1), probes)
    table = chosen // 2**flipped
    opened = (keys[:, :, None] ^ flips).reshape(count, -1)
    bucket = jnp.take_along_axis(opened, chosen, axis=1)
    start = index.starts[table, bucket]
    return table, start, index.starts[table, bucket + 1] - start, bucket


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

    inputs = queries, _encode(projected), _ranges(index, projected, probes)
    nearness, positions = lax.map(find, inputs, batch_size=QUERIES_AT_ONCE)
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)
