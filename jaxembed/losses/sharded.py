"""The contrastive losses over a batch that lies on many devices: rows stay, documents go round.

Each device sees every document once, in tiles, so memory is linear in its own rows. The values and
all gradients are those of `losses.contrastive` on the whole batch. Call them on whole arrays, under
`jit` or not; do not differentiate inside a `shard_map`.
"""

import functools

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxembed.losses.blockwise import Pairs, sum_over_pairs, sums_gradient
from jaxembed.losses.contrastive import Scalar, SumFn, check_pairs, sigmoid_losses, softmax_losses


def info_nce(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    mesh: Mesh,
    axis: str = "data",
    temperature: Scalar = 0.07,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int = 1024,
) -> Float[Array, "batch"]:
    """`losses.info_nce` of a batch spread over a mesh axis.

    Args:
        queries: See `losses.info_nce`; so are all arguments that are not named here.
        docs: Likewise.
        mesh: Devices; other axes of it hold copies.
        axis: The axis that rows are spread over; their number must be a multiple of its size.
        temperature: Likewise.
        mask: Likewise.
        ids: Likewise.
        hard_negatives: Likewise.
        log_q: Likewise.
        chunk_size: Rows and columns of a tile.

    Returns:
        Loss in nats for each query, spread like the rows.

    Raises:
        ValueError: As `losses.info_nce`, and if there is no such axis or rows do not divide.
    """
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    sum_fn = _make_ring(mesh, axis, chunk_size, len(queries))
    return softmax_losses(
        sum_fn, queries, docs, 1.0 / temperature, mask, ids, hard_negatives, log_q
    )


def clip_loss(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    mesh: Mesh,
    axis: str = "data",
    temperature: Scalar = 0.07,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int = 1024,
) -> Float[Array, "batch"]:
    """`losses.clip_loss` of a batch spread over a mesh axis; arguments as of `info_nce`."""
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    sum_fn, scale = _make_ring(mesh, axis, chunk_size, len(queries)), 1.0 / temperature
    forth = softmax_losses(sum_fn, queries, docs, scale, mask, ids, hard_negatives, log_q)
    back = softmax_losses(sum_fn, docs, queries, scale, mask, ids, None, None)
    return 0.5 * (forth + back)


def sigmoid_contrastive(
    queries: Float[Array, "batch dim"],
    docs: Float[Array, "batch dim"],
    *,
    mesh: Mesh,
    axis: str = "data",
    scale: Scalar = 10.0,
    bias: Scalar = -10.0,
    mask: Bool[Array, "batch"] | None = None,
    ids: Int[Array, "batch"] | None = None,
    hard_negatives: Float[Array, "batch negatives dim"] | None = None,
    log_q: Float[Array, "batch"] | None = None,
    chunk_size: int = 1024,
) -> Float[Array, "batch"]:
    """`losses.sigmoid_contrastive` of a batch spread over a mesh axis; others as of `info_nce`."""
    check_pairs(queries, docs, mask, ids, hard_negatives, log_q, chunk_size)
    sum_fn = _make_ring(mesh, axis, chunk_size, len(queries))
    return sigmoid_losses(sum_fn, queries, docs, scale, bias, mask, ids, hard_negatives, log_q)


def _make_ring(mesh: Mesh, axis: str, chunk_size: int, rows: int) -> SumFn:
    """The sum over pairs of rows and columns that are spread over an axis."""
    if axis not in mesh.shape:
        raise ValueError(f"the mesh has axes {mesh.axis_names}, not {axis!r}.")
    if rows % mesh.shape[axis]:
        raise ValueError(
            f"{rows} rows do not divide among {mesh.shape[axis]} devices of {axis!r}: pad and mask."
        )
    split, whole = PartitionSpec(axis), PartitionSpec()
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)

    def specs(pairs: Pairs) -> Pairs:
        return jax.tree.map(lambda _: split, pairs)

    def sum_fn(kind, queries, docs, scale, bias, pairs):
        inputs = (split, split, whole, split, specs(pairs))

        # Differentiated out here: inside, the meaning of a gradient depends on how it is reduced.
        @jax.custom_vjp
        def ring(queries, docs, scale, bias):
            def local(queries, docs, scale, bias, pairs):
                return sum_over_pairs(kind, queries, docs, scale, bias, pairs, chunk_size, axis)

            return shard(local, in_specs=inputs, out_specs=split)(queries, docs, scale, bias, pairs)

        def forward(queries, docs, scale, bias):
            sums = ring(queries, docs, scale, bias)
            return sums, (queries, docs, scale, bias, sums)

        def backward(saved, cotangent):
            def local(queries, docs, scale, bias, sums, pairs, cotangent):
                residuals = (queries, docs, scale, bias, pairs, sums)
                return sums_gradient(kind, chunk_size, axis, residuals, cotangent)[:4]

            outputs = (split, split, whole, split)
            sharded = shard(
                local,
                in_specs=(split, split, whole, split, split, specs(pairs), split),
                out_specs=outputs,
            )
            return sharded(*saved, pairs, cotangent)

        ring.defvjp(forward, backward)
        return ring(queries, docs, scale, bias)

    return sum_fn
