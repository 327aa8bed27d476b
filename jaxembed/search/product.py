"""Product quantization: vectors as codes of their parts, with or without an optimised rotation."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt8
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
from jaxembed.search.inverted import fill, in_order_of_position, lay_out, scan_lists
from jaxembed.search.ivf import (
    assign_lists,
    calibrate_probes,
    centred,
    check_centroids,
    coarse_nearness,
    layout_fields,
    layout_of,
    lists_of,
    make_centroids,
    slot_offsets,
    unpack,
)
from jaxembed.search.kmeans import kmeans, nearest_centroids

Rotation = Literal["none", "opq"]
Codebooks = Float[Array, "parts codewords width"]
TRAINING_SAMPLE = 65_536
OPQ_ITERATIONS = 20


def train_codebooks(
    vectors: Float[Array, "size dim"],
    parts: int,
    *,
    bits: int = 8,
    key: jax.Array,
    iterations: int = 25,
    start: Codebooks | None = None,
) -> Codebooks:
    """Clusters each part of the vectors.

    Args:
        vectors: Rows to train on; at most 65,536 random ones are used.
        parts: The number of parts; dimensions that do not divide are filled up with zeros.
        bits: Of a code, 4 or 8: 16 or 256 codewords a part.
        key: Of k-means.
        iterations: Of k-means.
        start: Codebooks to improve.

    Returns:
        The codebooks.

    Raises:
        ValueError: If `parts` is not from 1 to the number of dimensions, or `bits` not 4 or 8.

    Reference: Jegou et al., Product quantization for nearest neighbor search, 2011, section 2.2.
    """
    check_parts(parts, bits, vectors.shape[1])
    sample_key, key = jax.random.split(key)
    if vectors.shape[0] > TRAINING_SAMPLE:
        chosen = jax.random.choice(sample_key, vectors.shape[0], (TRAINING_SAMPLE,), replace=False)
        vectors = vectors[chosen]
    keys = jax.random.split(key, parts)
    return _train_parts(split_parts(vectors, parts), keys, start, 1 << bits, iterations)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _train_parts(rows, keys, start, count, iterations):
    def train(part):
        rows, key, start = part
        return kmeans(rows, count, key=key, iterations=iterations, start=start).centroids

    return lax.map(train, (rows, keys, start))


def check_parts(parts: int, bits: int, dim: int) -> None:
    """Raises ValueError on a number of parts or bits that cannot be."""
    if not 1 <= parts <= dim:
        raise ValueError(f"parts is {parts}: wanted 1 to the number of dimensions, {dim}.")
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits}: wanted 4 or 8.")


def split_parts(vectors: Float[Array, "size dim"], parts: int) -> Float[Array, "parts size width"]:
    """Cuts vectors into parts of one width, zeros after the last dimension."""
    width = -(-vectors.shape[1] // parts)
    padded = jnp.pad(vectors, ((0, 0), (0, parts * width - vectors.shape[1])))
    return jnp.moveaxis(padded.reshape(-1, parts, width), 1, 0)


def encode(vectors: Float[Array, "size dim"], codebooks: Codebooks) -> UInt8[Array, "size parts"]:
    """Finds the nearest codeword of each part.

    Args:
        vectors: Rows to encode.
        codebooks: Of `train_codebooks`.

    Returns:
        The numbers of the codewords, a byte each.
    """
    codes = lax.map(
        lambda part: nearest_centroids(*part)[0].astype(jnp.uint8),
        (split_parts(vectors, codebooks.shape[0]), codebooks),
    )
    return codes.T


def decode(
    codes: UInt8[Array, "*batch parts"], codebooks: Codebooks, dim: int
) -> Float[Array, "*batch dim"]:
    """Puts the codewords together.

    Args:
        codes: Of `encode`.
        codebooks: Those used to encode.
        dim: The number of dimensions.

    Returns:
        The vectors that the codes stand for.
    """
    parts, count, width = codebooks.shape
    firsts = jnp.arange(parts, dtype=jnp.int32) * count
    rows = codes.astype(jnp.int32) + firsts.reshape((1,) * (codes.ndim - 1) + (parts,))
    words = codebooks.reshape(parts * count, width).at[rows].get(mode="promise_in_bounds")
    return words.reshape(*codes.shape[:-1], parts * width)[..., :dim]


def pack_codes(codes: ArrayLike, bits: int) -> UInt8[np.ndarray, "size bytes"]:
    """Stores two codes of 4 bits in a byte, the first in the low half; on the host."""
    codes = np.asarray(codes, np.uint8)
    if bits == 8:
        return codes
    codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return codes[:, ::2] | codes[:, 1::2] << 4


def unpack_codes(
    packed: UInt8[Array, "*batch bytes"], codebooks: Codebooks
) -> UInt8[Array, "*batch parts"]:
    """Undoes `pack_codes`; the codebooks say how many codes of how many bits there are."""
    parts, count, _ = codebooks.shape
    if count == 256:
        return packed
    halves = jnp.stack([packed & jnp.uint8(15), packed >> jnp.uint8(4)], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)[..., :parts]


def train_rotation(
    vectors: Float[Array, "size dim"],
    parts: int,
    *,
    bits: int = 8,
    key: jax.Array,
    iterations: int = OPQ_ITERATIONS,
) -> Float[Array, "dim dim"]:
    """Finds the rotation after which product quantization errs least.

    Starts from the principal axes, dealt out so that the parts' variances multiply to about the
    same, then takes turns between codebooks and the rotation.

    Args:
        vectors: Rows to train on; at most 16,384 random ones are used.
        parts: The number of parts.
        bits: Of a code, 4 or 8.
        key: Of k-means and the sample.
        iterations: Turns.

    Returns:
        An orthogonal matrix; `vectors @ rotation` are to be encoded.

    Reference: Ge et al., Optimized product quantization, 2013, sections 3.1 and 3.2.
    """
    check_parts(parts, bits, vectors.shape[1])
    sample_key, key = jax.random.split(key)
    size = max(16_384, 32 << bits)
    if vectors.shape[0] > size:
        vectors = vectors[jax.random.choice(sample_key, vectors.shape[0], (size,), replace=False)]
    rotation = _balanced_axes(vectors, parts)
    rotated = jnp.matmul(vectors, rotation, precision=lax.Precision.HIGHEST)
    books = train_codebooks(rotated, parts, bits=bits, key=key, iterations=8)
    for turn in range(iterations):
        key = jax.random.fold_in(key, turn)
        rotation, books = _turn(vectors, rotation, books, key)
    return rotation


@jax.jit
def _turn(vectors, rotation, books, key):
    """Improves the codebooks, then the rotation: the orthogonal Procrustes problem."""
    rotated = jnp.matmul(vectors, rotation, precision=lax.Precision.HIGHEST)
    parts, count, _ = books.shape
    books = _train_parts(split_parts(rotated, parts), jax.random.split(key, parts), books, count, 2)
    decoded = decode(encode(rotated, books), books, vectors.shape[1])
    product = jnp.matmul(vectors.T, decoded, precision=lax.Precision.HIGHEST)
    left, _, right = jnp.linalg.svd(product)
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST), books


def _balanced_axes(vectors, parts):
    """Principal axes, each given to the part with the smallest product of variances so far."""
    rows = np.asarray(vectors, np.float64)
    variances, axes = np.linalg.eigh(
        np.cov(rows, rowvar=False, bias=True).reshape(rows.shape[1], -1)
    )
    width = -(-rows.shape[1] // parts)
    room = np.minimum(width, rows.shape[1] - width * np.arange(parts))
    places, weights = [[] for _ in range(parts)], np.zeros(parts)
    for axis in np.argsort(-variances, kind="stable"):
        is_open = np.asarray(
            [len(taken) < space for taken, space in zip(places, room, strict=True)]
        )
        part = int(np.argmin(np.where(is_open, weights, np.inf)))
        places[part].append(axis)
        weights[part] += np.log(max(variances[axis], 1e-12) / max(variances.max(), 1e-12)) + 30.0
    return jnp.asarray(axes[:, np.concatenate(places).astype(int)], jnp.float32)


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class PQIndex(Index):
    """Codes of all vectors, compared with whole queries (asymmetric distances).

    Scores are those of the decoded vectors, so both they and their order are approximate.

    Attributes:
        ids: As of every index.
        codebooks: Codewords of each part.
        rotation: Applied to vectors before they are encoded, or None.
        centre: The mean of the vectors for euclidean, otherwise zeros.
        codes: The codes in each page; see `pack_codes`.
        half_squares: For euclidean half the square of the length of each decoded vector.
        slots: Which place in `ids` lies in each slot, -1 in empty ones.
        page_lists: 0, the one list, for each page.
        first_pages: 0.
        page_counts: The number of pages.
        longest: The number of pages.
        metric: As of every index.
    """

    ids: Int[Array, "size"]
    codebooks: Float[Array, "parts codewords width"]
    rotation: Float[Array, "dim dim"] | None
    centre: Float[Array, "dim"]
    codes: UInt8[Array, "pages page bytes"]
    half_squares: Float[Array, "pages page"] | None
    slots: Int[Array, "pages page"]
    page_lists: Int[Array, "pages"]
    first_pages: Int[Array, "lists"]
    page_counts: Int[Array, "lists"]
    longest: int = static()
    metric: Metric = static()

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "dot",
        key: jax.Array | None = None,
        ids: ArrayLike | None = None,
        parts: int | None = None,
        bits: int = 8,
        rotation: Rotation = "none",
        codebooks: ArrayLike | None = None,
        iterations: int = 25,
    ) -> "PQIndex":
        """Trains codebooks and encodes the vectors; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            parts: Codes of a vector; by default one for every two dimensions, to 128 dimensions,
                and one for every four above.
            bits: Of a code, 4 or 8.
            rotation: "opq" trains a rotation first, which helps where dimensions are correlated.
            codebooks: `[parts, 2 ** bits, width]`, in place of training.
            iterations: Of k-means.

        Returns:
            The index.

        Raises:
            ValueError: On NaN or infinite values, duplicate or negative ids, wrong shapes, parts
                or bits.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        key = jax.random.key(0) if key is None else key
        parts = default_parts(rows.shape[1]) if parts is None else parts
        check_parts(parts, bits, rows.shape[1])
        rotated, matrix = rotate(rows, rotation, parts, bits, key)
        if codebooks is None:
            books = train_codebooks(
                jnp.asarray(rotated), parts, bits=bits, key=key, iterations=iterations
            )
        else:
            books = check_codebooks(codebooks, rows.shape[1])
        codes = pack_codes(_encode(jnp.asarray(rotated), books), _bits(books))
        return assemble_pq(cls, codes, ids, books, matrix, centre, metric)

    def search(
        self, queries: Num[Array | np.ndarray, "queries dim"], k: int, *, where: Where = None
    ) -> Results:
        """Finds the k vectors whose decoded form is best; as of every index."""
        check_search(queries, k, self.dim)
        return _search_codes(self, queries, where, k=k)

    @property
    def dim(self) -> int:
        """The number of dimensions of vectors and queries."""
        return self.centre.shape[0]

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The decoded vectors in the order of `ids`; on the host."""
        codes = jnp.asarray(self.packed())
        decoded = decode(unpack_codes(codes, self.codebooks), self.codebooks, self.dim)
        back = None if self.rotation is None else self.rotation.T
        return np.asarray(_turned(decoded, back)) + np.asarray(self.centre)

    def packed(self) -> UInt8[np.ndarray, "size bytes"]:
        """The packed codes in the order of `ids`; on the host."""
        return unpack(self.slots, self.codes, self.size)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "PQIndex":
        rotated = _turned(jnp.asarray(rows) - self.centre[None, :], self.rotation)
        codes = pack_codes(_encode(rotated, self.codebooks), _bits(self.codebooks))
        return self._again(concatenate([self.packed(), codes]), concatenate([self.ids, ids]))

    def _keep(self, positions: np.ndarray) -> "PQIndex":
        return self._again(self.packed()[positions], np.asarray(self.ids)[positions])

    def _again(self, codes, ids):
        return assemble_pq(
            type(self), codes, ids, self.codebooks, self.rotation, self.centre, self.metric
        )


@functools.partial(jax.jit, static_argnames="k")
def _search_codes(index, queries, where, *, k):
    queries, is_finite = prepare_queries(queries, index.metric)
    queries = _turned(queries - index.centre[None, :], index.rotation)
    nearness, slots = scan_lists(
        queries,
        jnp.zeros((queries.shape[0], 1), jnp.float32),
        jnp.asarray(1, jnp.int32),
        layout_of(index),
        index.codes,
        slot_offsets(index.slots, index.half_squares, allowed(where, index.ids)),
        lambda stored, lists: decode(
            unpack_codes(stored, index.codebooks), index.codebooks, index.dim
        ),
        k,
        is_euclidean=index.metric == "euclidean",
    )
    nearness, positions = in_order_of_position(nearness, index.slots.reshape(-1)[slots])
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def assemble_pq(cls, codes, ids, books, matrix, centre, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(np.zeros(len(codes), np.int32), 1)
    stored = fill(layout, codes)
    half = None
    if metric == "euclidean":
        half = half_squares_of(stored, layout.page_lists, books, None, len(centre))
    return cls(
        ids=jnp.asarray(ids),
        codebooks=jnp.asarray(books),
        rotation=matrix,
        centre=jnp.asarray(centre),
        codes=jnp.asarray(stored),
        half_squares=half,
        **layout_fields(layout),
        metric=metric,
    )


@register_index
@dataclasses.dataclass(frozen=True, eq=False)
class IVFPQIndex(Index):
    """Inverted lists of codes, of what is left of a vector after its centroid is taken away.

    Attributes:
        ids: As of every index.
        centroids: Of the lists, in the coordinates of the codes.
        codebooks: Codewords of each part of what is left.
        rotation: Applied to vectors first, or None.
        centre: The mean of the vectors for euclidean, otherwise zeros.
        codes: The codes in each page; see `pack_codes`.
        half_squares: For euclidean half the square of the length of each decoded vector.
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
    codebooks: Float[Array, "parts codewords width"]
    rotation: Float[Array, "dim dim"] | None
    centre: Float[Array, "dim"]
    codes: UInt8[Array, "pages page bytes"]
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
        parts: int | None = None,
        bits: int = 8,
        rotation: Rotation = "none",
        centroids: ArrayLike | None = None,
        codebooks: ArrayLike | None = None,
        iterations: int = 25,
    ) -> "IVFPQIndex":
        """Clusters the vectors, trains codebooks of the residuals and encodes; not traceable.

        Args:
            vectors: A row each; finite numbers.
            metric: What nearest means.
            key: Of k-means; None stands for key 0.
            ids: A distinct number, from 0 to 2^31 - 1, for each vector; by default its row.
            lists: As of `IVFIndex.build`.
            probes: As of `IVFIndex.build`.
            parts: As of `PQIndex.build`.
            bits: Of a code, 4 or 8.
            rotation: "opq" trains a rotation of the residuals first.
            centroids: Of the lists, in place of k-means.
            codebooks: `[parts, 2 ** bits, width]`, in place of training.
            iterations: Of k-means in the codebooks.

        Returns:
            The index.

        Raises:
            ValueError: As of `IVFIndex.build` and `PQIndex.build`.
        """
        rows = check_vectors(vectors, metric=metric)
        ids = check_ids(ids, len(rows))
        rows, centre = centred(rows, metric)
        key = jax.random.key(0) if key is None else key
        list_key, key = jax.random.split(key)
        parts = default_parts(rows.shape[1]) if parts is None else parts
        check_parts(parts, bits, rows.shape[1])
        given = None if centroids is None else check_centroids(centroids, centre, rows.shape[1])
        # Means, not scaled to length 1 for cosine: what is left to encode is smaller.
        found = make_centroids(rows, list_key, lists, given, 10)
        assignments = assign_lists(rows, found, metric)
        if probes is None:
            probes = calibrate_probes(rows, found, metric, assignments[:, None])
        elif probes < 1:
            raise ValueError(f"probes is {probes}: it must be at least 1.")
        residuals = rows - np.asarray(found)[assignments]
        rotated, matrix = rotate(residuals, rotation, parts, bits, key)
        if codebooks is None:
            books = train_codebooks(
                jnp.asarray(rotated), parts, bits=bits, key=key, iterations=iterations
            )
        else:
            books = check_codebooks(codebooks, rows.shape[1])
        codes = pack_codes(_encode(jnp.asarray(rotated), books), _bits(books))
        found = _turned(found, matrix)
        return assemble_ivfpq(
            cls, codes, assignments, ids, found, books, matrix, centre, probes, metric
        )

    def search(
        self,
        queries: Num[Array | np.ndarray, "queries dim"],
        k: int,
        *,
        where: Where = None,
        probes: int | Int[Array, ""] | None = None,
    ) -> Results:
        """Finds the k vectors of the nearest lists whose decoded form is best.

        Args:
            queries: Query vectors. One with a NaN or infinity finds nothing.
            k: Number of results for each query, at least 1.
            where: As of every index.
            probes: How many lists to scan; may be traced.

        Returns:
            Scores and ids, as of every index.

        Raises:
            ValueError: If k is below 1 or shapes disagree.
        """
        check_search(queries, k, self.dim)
        probes = self.probes if probes is None else probes
        return _search_lists(self, queries, where, probes, k=k)

    @property
    def dim(self) -> int:
        """The number of dimensions of vectors and queries."""
        return self.centre.shape[0]

    def rows(self) -> Float[np.ndarray, "size dim"]:
        """The decoded vectors in the order of `ids`; on the host."""
        codes, lists = self.packed(), self.assignments()
        decoded = decode_residuals(
            jnp.asarray(codes)[:, None], jnp.asarray(lists), self.codebooks, self.centroids
        )[:, 0]
        back = None if self.rotation is None else self.rotation.T
        return np.asarray(_turned(decoded, back)) + np.asarray(self.centre)

    def packed(self) -> UInt8[np.ndarray, "size bytes"]:
        """The packed codes in the order of `ids`; on the host."""
        return unpack(self.slots, self.codes, self.size)

    def assignments(self) -> Int[np.ndarray, "size"]:
        """The list of each vector, in the order of `ids`; on the host."""
        return lists_of(self)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> "IVFPQIndex":
        rotated = _turned(jnp.asarray(rows) - self.centre[None, :], self.rotation)
        assigned = assign_lists(rotated, self.centroids, self.metric)
        codes = _encode(rotated - self.centroids[assigned], self.codebooks)
        return self._again(
            concatenate([self.packed(), pack_codes(codes, _bits(self.codebooks))]),
            concatenate([self.assignments(), assigned]),
            concatenate([self.ids, ids]),
        )

    def _keep(self, positions: np.ndarray) -> "IVFPQIndex":
        codes, lists = self.packed(), self.assignments()
        return self._again(codes[positions], lists[positions], np.asarray(self.ids)[positions])

    def _again(self, codes, lists, ids):
        fields = self.centroids, self.codebooks, self.rotation, self.centre
        return assemble_ivfpq(type(self), codes, lists, ids, *fields, self.probes, self.metric)


@functools.partial(jax.jit, static_argnames="k")
def _search_lists(index, queries, where, probes, *, k):
    queries, is_finite = prepare_queries(queries, index.metric)
    queries = _turned(queries - index.centre[None, :], index.rotation)
    nearness, slots = scan_lists(
        queries,
        coarse_nearness(queries, index.centroids, index.metric),
        jnp.asarray(probes, jnp.int32),
        layout_of(index),
        index.codes,
        slot_offsets(index.slots, index.half_squares, allowed(where, index.ids)),
        lambda stored, lists: decode_residuals(stored, lists, index.codebooks, index.centroids),
        k,
        is_euclidean=index.metric == "euclidean",
    )
    nearness, positions = in_order_of_position(nearness, index.slots.reshape(-1)[slots])
    return report(nearness, positions, index.ids, k, metric=index.metric, is_finite=is_finite)


def assemble_ivfpq(cls, codes, assignments, ids, centroids, books, matrix, centre, probes, metric):
    """Lays out an index whose parts are known."""
    layout = lay_out(assignments, centroids.shape[0])
    stored = fill(layout, codes)
    half = None
    if metric == "euclidean":
        half = half_squares_of(stored, layout.page_lists, books, centroids, len(centre))
    return cls(
        ids=jnp.asarray(ids),
        centroids=jnp.asarray(centroids),
        codebooks=jnp.asarray(books),
        rotation=matrix,
        centre=jnp.asarray(centre),
        codes=jnp.asarray(stored),
        half_squares=half,
        **layout_fields(layout),
        probes=int(probes),
        metric=metric,
    )


def decode_residuals(
    stored: UInt8[Array, "some rows bytes"],
    lists: Int[Array, "some"],
    codebooks: Codebooks,
    centroids: Float[Array, "lists dim"],
) -> Float[Array, "some rows dim"]:
    """Decodes stored codes and adds the centroids of their lists."""
    residuals = decode(unpack_codes(stored, codebooks), codebooks, centroids.shape[1])
    return residuals + centroids[lists][:, None, :]


def half_squares_of(stored, page_lists, codebooks, centroids, dim):
    """Half the squared lengths of decoded vectors, a few pages at a time."""
    centroids = jnp.zeros((1, dim), jnp.float32) if centroids is None else centroids

    def measure(page):
        vectors = decode_residuals(page[0][None], page[1][None], codebooks, centroids)[0]
        return 0.5 * jnp.sum(vectors * vectors, axis=1)

    return lax.map(measure, (jnp.asarray(stored), jnp.asarray(page_lists)))


def default_parts(dim: int) -> int:
    """One code for every two dimensions, and for every four above 128."""
    return -(-dim // (2 if dim <= 128 else 4))


def rotate(rows, rotation, parts, bits, key):
    """The rows in the coordinates that are encoded, and the matrix that brings them there."""
    if rotation not in ("none", "opq"):
        raise ValueError(f"Unknown rotation {rotation!r}: choose none or opq.")
    if rotation == "none":
        return rows, None
    matrix = train_rotation(jnp.asarray(rows), parts, bits=bits, key=jax.random.fold_in(key, 1))
    return np.asarray(_turned(jnp.asarray(rows), matrix)), matrix


def check_codebooks(codebooks: ArrayLike, dim: int) -> Codebooks:
    """Checks codebooks that a caller brings."""
    books = jnp.asarray(codebooks, jnp.float32)
    if (
        books.ndim != 3
        or books.shape[1] not in (16, 256)
        or books.shape[2] != -(-dim // books.shape[0])
    ):
        raise ValueError(
            f"The codebooks have shape {books.shape}: wanted [parts, 16 or 256, dimensions a part] "
            f"for vectors of {dim} dimensions."
        )
    return books


def _turned(rows, rotation):
    if rotation is None:
        return rows
    return jnp.matmul(rows, rotation, precision=lax.Precision.HIGHEST)


def _bits(codebooks) -> int:
    return 4 if codebooks.shape[1] == 16 else 8


_encode = jax.jit(encode)
