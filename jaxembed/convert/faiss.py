"""Search indices as faiss files, written and read through faiss where it is installed.

faiss reports squared Euclidean distances, these indices plain ones. A cosine index is written as
one of inner products over unit vectors.
"""

import os

import jax.numpy as jnp
import numpy as np

from jaxembed.atomic import write_atomically
from jaxembed.search.checks import Metric
from jaxembed.search.codebooks import pack_codes
from jaxembed.search.exact import ExactIndex
from jaxembed.search.index import Index
from jaxembed.search.ivf import IVFIndex, assemble_ivf
from jaxembed.search.ivfpq import IVFPQIndex, assemble_ivfpq
from jaxembed.search.product import PQIndex, assemble_pq
from jaxembed.search.scalar import Int8Index

PathLike = str | os.PathLike[str]
HALF_RANGE = 128.5  # of faiss's codes, 0 to 255, which stand for the middles of their steps


def write_faiss(path: PathLike, index: Index) -> None:
    """Writes an index as a file that `faiss.read_index` takes; it appears whole or not at all.

    ExactIndex becomes IndexFlat, IVFIndex IndexIVFFlat, PQIndex IndexPQ, IVFPQIndex IndexIVFPQ and
    Int8Index IndexScalarQuantizer of 8 bits. Ids are kept, with an IndexIDMap2 where faiss's kind
    numbers its vectors. Rotations and dimensions that do not divide become an IndexPreTransform.

    Args:
        path: The file.
        index: One of these kinds.

    Raises:
        ModuleNotFoundError: If faiss is not installed.
        TypeError: If the index is of another kind.
        ValueError: If an Int8Index is not scaled by dimension.
    """
    faiss = _faiss()
    writers = {
        ExactIndex: _from_exact,
        IVFIndex: _from_ivf,
        PQIndex: _from_pq,
        IVFPQIndex: _from_ivfpq,
        Int8Index: _from_int8,
    }
    if type(index) not in writers:
        known = ", ".join(cls.__name__ for cls in writers)
        raise TypeError(f"The index is a {type(index).__name__}: faiss files hold {known}.")
    metric = faiss.METRIC_L2 if index.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    written = writers[type(index)](faiss, index, metric)
    with write_atomically(path) as file:
        faiss.write_index(written, os.fspath(file.name))


def read_faiss(path: PathLike, *, metric: Metric | None = None) -> Index:
    """Reads a file that faiss wrote.

    Args:
        path: A file of one of the kinds that `write_faiss` writes.
        metric: None takes the file's: "euclidean", or "dot" for inner products. "cosine" reads a
            file of inner products over unit vectors as such.

    Returns:
        The index, with the file's ids, lists, centroids and codes.

    Raises:
        ModuleNotFoundError: If faiss is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not faiss's, is of another kind, or its metric is not that one.
    """
    faiss = _faiss()
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)}.")
    try:
        whole = faiss.read_index(os.fspath(path))  # owns the indices inside it
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{os.fspath(path)} is no whole faiss index: {reason}") from error
    found, ids, matrix = faiss.downcast_index(whole), None, None
    if isinstance(found, faiss.IndexIDMap):
        ids = faiss.vector_to_array(found.id_map)
        found = faiss.downcast_index(found.index)
    if isinstance(found, faiss.IndexPreTransform):
        matrix = _matrix_of(faiss, found, path)
        found = faiss.downcast_index(found.index)
    metric = _metric_of(faiss, found, metric, path)
    if isinstance(found, faiss.IndexFlat) and matrix is None:
        rows = found.reconstruct_n(0, found.ntotal)
        return _checked(ExactIndex.build(rows, metric=metric, ids=ids), rows, metric, path)
    if isinstance(found, faiss.IndexScalarQuantizer) and matrix is None:
        return _to_int8(faiss, found, ids, metric, path)
    if isinstance(found, faiss.IndexPQ):
        return _to_pq(faiss, found, ids, matrix, metric)
    if isinstance(found, faiss.IndexIVFPQ) and found.by_residual:
        return _to_ivfpq(faiss, found, ids, matrix, metric)
    if isinstance(found, faiss.IndexIVFFlat) and matrix is None:
        return _to_ivf(faiss, found, ids, metric, path)
    raise ValueError(
        f"{os.fspath(path)} holds a {type(found).__name__}: wanted Flat, IVFFlat, PQ, IVFPQ with "
        "residuals, or a scalar quantizer of 8 bits."
    )


def _from_exact(faiss, index, metric):
    written = faiss.IndexFlat(index.dim, metric)
    written.add(np.ascontiguousarray(index.vectors, np.float32))
    return _with_ids(faiss, written, index)


def _from_int8(faiss, index, metric):
    if index.steps is not None:
        raise ValueError(
            "The Int8Index has a step a vector, faiss's SQ8 a range a dimension: build it with "
            "scaling='dimension'."
        )
    scale, offset = np.asarray(index.scale), np.asarray(index.offset)
    written = faiss.IndexScalarQuantizer(index.dim, faiss.ScalarQuantizer.QT_8bit, metric)
    lowest = offset - HALF_RANGE * scale
    faiss.copy_array_to_vector(
        np.concatenate([lowest, 255.0 * scale]).astype(np.float32), written.sq.trained
    )
    codes = (np.asarray(index.codes).astype(np.int16) + 128).astype(np.uint8)
    return _with_ids(faiss, _with_codes(faiss, written, codes), index)


def _from_pq(faiss, index, metric):
    parts, count, width = index.codebooks.shape
    written = faiss.IndexPQ(parts * width, parts, count.bit_length() - 1, metric)
    centre = _padded(_rotated(index, np.asarray(index.centre)[None]), parts * width)
    books = np.asarray(index.codebooks) + centre.reshape(parts, 1, width)
    faiss.copy_array_to_vector(books.astype(np.float32).ravel(), written.pq.centroids)
    _with_codes(faiss, written, index.packed())
    return _with_ids(faiss, _with_matrix(faiss, written, index, parts * width), index)


def _from_ivf(faiss, index, metric):
    centroids = np.asarray(index.centroids) + np.asarray(index.centre)
    written = faiss.IndexIVFFlat(
        _quantizer(faiss, centroids, metric), index.dim, len(centroids), metric
    )
    _fill_lists(faiss, written, index, index.assignments(), index.rows())
    return written


def _from_ivfpq(faiss, index, metric):
    parts, count, width = index.codebooks.shape
    centre = _rotated(index, np.asarray(index.centre)[None])
    centroids = _padded(np.asarray(index.centroids) + centre, parts * width)
    bits = count.bit_length() - 1
    quantizer = _quantizer(faiss, centroids, metric)
    written = faiss.IndexIVFPQ(quantizer, parts * width, len(centroids), parts, bits, metric)
    faiss.copy_array_to_vector(np.asarray(index.codebooks).ravel(), written.pq.centroids)
    _fill_lists(faiss, written, index, index.assignments(), index.packed())
    written.use_precomputed_table = 0
    written.precompute_table()
    return _with_matrix(faiss, written, index, parts * width)


def _quantizer(faiss, centroids, metric):
    quantizer = faiss.IndexFlat(centroids.shape[1], metric)
    quantizer.add(np.ascontiguousarray(centroids, np.float32))
    quantizer.this.disown()  # the index that it is given to frees it
    return quantizer


def _fill_lists(faiss, written, index, lists, rows):
    """Puts rows, as bytes, and ids into a faiss index's inverted lists."""
    stored = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    ids = np.asarray(index.ids).astype(np.int64)
    for number in range(written.nlist):
        inside = np.flatnonzero(lists == number)
        if len(inside):
            some_ids, some = ids[inside], np.ascontiguousarray(stored[inside])
            written.invlists.add_entries(
                number, len(inside), faiss.swig_ptr(some_ids), faiss.swig_ptr(some)
            )
    written.ntotal, written.is_trained, written.own_fields = index.size, True, True
    written.nprobe = index.probes


def _with_codes(faiss, written, codes):
    faiss.copy_array_to_vector(np.ascontiguousarray(codes).ravel(), written.codes)
    written.ntotal, written.is_trained = len(codes), True
    return written


def _with_ids(faiss, written, index):
    """Wraps the index where its ids are not its rows."""
    ids = np.asarray(index.ids).astype(np.int64)
    if (ids == np.arange(len(ids))).all():
        return written
    written.ntotal = 0  # faiss wraps empty indices only
    wrapped = faiss.IndexIDMap2(written)
    faiss.copy_array_to_vector(ids, wrapped.id_map)
    written.ntotal = wrapped.ntotal = len(ids)
    wrapped.construct_rev_map()
    written.this.disown()
    wrapped.own_fields = True
    return wrapped


def _with_matrix(faiss, written, index, wide):
    """Wraps the index in its rotation, with rows of zeros where faiss wants more dimensions."""
    if index.rotation is None and wide == index.dim:
        return written
    matrix = np.eye(index.dim) if index.rotation is None else np.asarray(index.rotation)
    transform = faiss.LinearTransform(index.dim, wide, False)
    faiss.copy_array_to_vector(_padded(matrix, wide).T.astype(np.float32).ravel(), transform.A)
    transform.is_trained = True
    transform.set_is_orthonormal()
    wrapped = faiss.IndexPreTransform(transform, written)
    wrapped.ntotal, wrapped.is_trained = written.ntotal, True
    transform.this.disown()
    written.this.disown()
    wrapped.own_fields = True
    return wrapped


def _rotated(index, rows):
    return rows if index.rotation is None else rows @ np.asarray(index.rotation)


def _padded(rows, wide):
    return np.pad(rows, ((0, 0), (0, wide - rows.shape[1])))


def _matrix_of(faiss, found, path):
    """The matrix `[dim, dim]` before an index whose vectors are multiplied with it."""
    transform = faiss.downcast_VectorTransform(found.chain.at(0))
    is_plain = isinstance(transform, faiss.LinearTransform) and not transform.have_bias
    if found.chain.size() != 1 or not is_plain or not transform.is_orthonormal:
        raise ValueError(f"{os.fspath(path)} transforms its vectors by more than a rotation.")
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    if matrix[transform.d_in :].any() or transform.d_out < transform.d_in:
        raise ValueError(f"{os.fspath(path)} changes the number of dimensions.")
    return matrix[: transform.d_in].T


def _metric_of(faiss, found, metric, path):
    stored = "euclidean" if found.metric_type == faiss.METRIC_L2 else "dot"
    known = found.metric_type in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT)
    wanted = metric or stored
    if not known or wanted not in {"euclidean": ("euclidean",), "dot": ("dot", "cosine")}[stored]:
        raise ValueError(
            f"{os.fspath(path)} has faiss's metric {found.metric_type}, which is not {wanted!r}."
        )
    return wanted


def _checked(index, rows, metric, path):
    """Refuses to read vectors of any length as unit vectors."""
    if metric == "cosine":
        squares = (np.asarray(rows, np.float64) ** 2).sum(axis=1)
        if not np.all((np.abs(squares - 1.0) < 1e-3) | (squares == 0.0)):
            raise ValueError(f"{os.fspath(path)} holds vectors that are not of length 1.")
    return index


def _to_int8(faiss, found, ids, metric, path):
    if found.sq.qtype != faiss.ScalarQuantizer.QT_8bit:
        raise ValueError(f"{os.fspath(path)} is a scalar quantizer of another kind than 8 bits.")
    lowest, width = faiss.vector_to_array(found.sq.trained).reshape(2, -1)
    codes = faiss.vector_to_array(found.codes).reshape(found.ntotal, found.d)
    scale = np.maximum(width / 255.0, np.finfo(np.float32).tiny)
    index = Int8Index(
        codes=jnp.asarray((codes.astype(np.int16) - 128).astype(np.int8)),
        scale=jnp.asarray(scale),
        steps=None,
        offset=jnp.asarray(lowest + HALF_RANGE * scale),
        # The vectors are gone; that of values spread evenly over each step.
        error=jnp.asarray(scale / np.float32(12.0**0.5)),
        vectors=None,
        ids=jnp.asarray(_ids(ids, found.ntotal)),
        metric=metric,
    )
    return index


def _to_pq(faiss, found, ids, matrix, metric):
    books, dim = _books(faiss, found), found.d if matrix is None else len(matrix)
    codes = faiss.vector_to_array(found.codes).reshape(found.ntotal, -1)
    codes = pack_codes(_unpacked(codes, found.pq), found.pq.nbits)
    centre = np.zeros(dim, np.float32)
    return assemble_pq(PQIndex, codes, _ids(ids, len(codes)), books, _turn(matrix), centre, metric)


def _to_ivf(faiss, found, ids, metric, path):
    rows, lists, numbers = _entries(faiss, found)
    rows = np.ascontiguousarray(rows).view(np.float32)
    centroids = _centroids(faiss, found)
    centre = np.zeros(found.d, np.float32)
    if metric == "euclidean":
        centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    numbers = numbers if ids is None else ids[numbers]
    index = assemble_ivf(
        IVFIndex,
        rows - centre,
        lists,
        _ids(numbers, len(rows)),
        centroids - centre,
        centre,
        max(1, found.nprobe),
        metric,
    )
    return _checked(index, rows, metric, path)


def _to_ivfpq(faiss, found, ids, matrix, metric):
    codes, lists, numbers = _entries(faiss, found)
    dim = found.d if matrix is None else len(matrix)
    numbers = numbers if ids is None else ids[numbers]
    return assemble_ivfpq(
        IVFPQIndex,
        pack_codes(_unpacked(codes, found.pq), found.pq.nbits),
        lists,
        _ids(numbers, len(codes)),
        jnp.asarray(_centroids(faiss, found)[:, :dim]),
        _books(faiss, found),
        _turn(matrix),
        np.zeros(dim, np.float32),
        max(1, found.nprobe),
        metric,
    )


def _turn(matrix):
    """The rotation, or None for one that turns nothing."""
    if matrix is None or (matrix == np.eye(len(matrix))).all():
        return None
    return jnp.asarray(matrix, jnp.float32)


def _ids(ids, count):
    ids = np.arange(count) if ids is None else np.asarray(ids)
    if len(ids) and (ids.min() < 0 or ids.max() > np.iinfo(np.int32).max):
        raise ValueError("The file has ids outside 0 to 2^31 - 1, which an index cannot hold.")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("The file has an id more than once; an index holds distinct ids.")
    return ids.astype(np.int32)


def _books(faiss, found):
    if found.pq.nbits not in (4, 8):
        raise ValueError(f"The file has codes of {found.pq.nbits} bits: wanted 4 or 8.")
    shape = found.pq.M, found.pq.ksub, found.pq.dsub
    return jnp.asarray(faiss.vector_to_array(found.pq.centroids).reshape(shape))


def _unpacked(codes, quantizer):
    if quantizer.nbits == 8:
        return codes
    halves = np.stack([codes & 15, codes >> 4], axis=2)
    return halves.reshape(len(codes), -1)[:, : quantizer.M]


def _centroids(faiss, found):
    return found.quantizer.reconstruct_n(0, found.nlist)


def _entries(faiss, found):
    """Stored bytes, list and id of every vector, in the order of the ids."""
    codes, lists, ids = [], [], []
    for number in range(found.nlist):
        count, width = found.invlists.list_size(number), found.code_size
        if count:
            stored = faiss.rev_swig_ptr(found.invlists.get_codes(number), count * width)
            codes.append(stored.reshape(count, width).copy())
            ids.append(faiss.rev_swig_ptr(found.invlists.get_ids(number), count).copy())
            lists.append(np.full(count, number))
    codes, lists, ids = map(np.concatenate, (codes, lists, ids))
    order = np.argsort(ids, kind="stable")
    return codes[order], lists[order], ids[order]


def _faiss():
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "faiss is not installed, which reads and writes its files: pip install faiss-cpu."
        ) from error
    return faiss
