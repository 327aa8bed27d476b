"""Sums over all pairs of two sets of vectors, tile by tile: no matrix of all logits is ever kept.

The gradient recomputes the tiles from one number a row, so memory is linear in rows and columns.
With an `axis` each device of a `shard_map` holds a part of both sets, and the columns go round.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Kind = Literal["softmax", "sigmoid"]
FLOOR = -1e30  # a finite stand-in for log 0


class Pairs(NamedTuple):
    """Which pairs of rows and columns count; integers and masks, without gradients.

    Attributes:
        row_places: Number of each row; a row and a column of equal number are a positive pair.
        column_places: Number of each column.
        column_mask: False for columns that are padding.
        row_ids: Identity of each row, or None; equal ones are no negatives of one another.
        column_ids: Identity of each column, or None.
    """

    row_places: Int[Array, "rows"]
    column_places: Int[Array, "columns"]
    column_mask: Bool[Array, "columns"]
    row_ids: Int[Array, "rows"] | None
    column_ids: Int[Array, "columns"] | None


def is_counted(pairs: Pairs) -> Bool[Array, "rows columns"]:
    """True for positive pairs and for negatives that are real and of another identity."""
    counted = jnp.broadcast_to(
        pairs.column_mask[None], (*pairs.row_places.shape, *pairs.column_mask.shape)
    )
    if pairs.row_ids is None:
        return counted
    is_same = pairs.row_ids[:, None] == pairs.column_ids[None]
    return counted & (~is_same | is_positive(pairs))


def is_positive(pairs: Pairs) -> Bool[Array, "rows columns"]:
    """True where a row meets its own column."""
    return pairs.row_places[:, None] == pairs.column_places[None]


def pair_logits(
    rows: Float[Array, "rows dim"],
    columns: Float[Array, "columns dim"],
    scale: Float[Array, ""],
    bias: Float[Array, "columns"],
) -> Float[Array, "rows columns"]:
    """Scaled inner products plus a bias a column, in float32."""
    return scale * _products(rows, columns) + bias[None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6, 7))
def sum_over_pairs(
    kind: Kind,
    rows: Float[Array, "rows dim"],
    columns: Float[Array, "columns dim"],
    scale: Float[Array, ""],
    bias: Float[Array, "columns"],
    pairs: Pairs,
    chunk_size: int,
    axis: str | None,
) -> Float[Array, "rows"]:
    """For each row the logsumexp of its counted logits, or its sum of sigmoid losses.

    Args:
        kind: "softmax": log sum exp(logit). "sigmoid": sum of softplus(logit), or softplus(-logit)
            for the positive pair.
        rows: Vectors; inside a `shard_map` this device's.
        columns: Vectors; likewise.
        scale: Factor of the inner products.
        bias: Added to the logits of each column.
        pairs: Which pairs count.
        chunk_size: Rows and columns of a tile.
        axis: Name of the mesh axis that the columns go round, or None.

    Returns:
        A number a row, `FLOOR` or 0 where none is counted.
    """
    return _forward(kind, rows, columns, scale, bias, pairs, chunk_size, axis)


def _forward(kind, rows, columns, scale, bias, pairs, chunk_size, axis):
    row_blocks, column_blocks = _cut(rows, columns, bias, pairs, chunk_size)
    count = row_blocks[1].shape[:2]
    start = jnp.full(count, FLOOR if kind == "softmax" else 0.0), jnp.zeros(count)

    def round_trip(carry, _):
        sums, block = carry

        def of_row_block(args):
            row_block, sums = args

            def add(sums, column_block):
                tile = _tile(row_block, column_block, scale)
                return _accumulate(kind, sums, *tile[1:]), None

            return lax.scan(add, sums, block)[0]

        sums = lax.map(of_row_block, (row_blocks, sums))
        return (sums, _pass_on(block, axis)), None

    # A carry that varies over the mesh must do so from the start.
    (sums, _), _ = lax.scan(round_trip, (start, column_blocks), None, length=_axis_size(axis))
    top, total = (part.reshape(-1)[: rows.shape[0]] for part in sums)
    if kind == "sigmoid":
        return total
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), FLOOR)


def _save(kind, rows, columns, scale, bias, pairs, chunk_size, axis):
    sums = _forward(kind, rows, columns, scale, bias, pairs, chunk_size, axis)
    return sums, (rows, columns, scale, bias, pairs, sums)


def sums_gradient(kind, chunk_size, axis, saved, cotangent):
    """The gradient of `sum_over_pairs` from what its forward pass saved; see `jax.custom_vjp`."""
    rows, columns, scale, bias, pairs, sums = saved
    row_blocks, column_blocks = _cut(rows, columns, bias, pairs, chunk_size)
    blocks, size = row_blocks[1].shape[:2]
    padding = blocks * size - rows.shape[0]
    levels = jnp.pad(sums, (0, padding)).reshape(blocks, size)
    weights_in = jnp.pad(cotangent, (0, padding)).reshape(blocks, size)
    row_gradients = jnp.zeros((blocks, size, rows.shape[1]))
    column_count = column_blocks[1].shape[0]

    def round_trip(carry, _):
        row_gradients, scale_gradient, block, column_gradients, bias_gradients = carry

        def of_row_block(carry, args):
            scale_gradient, column_gradients, bias_gradients = carry
            row_block, level, weight_in, row_gradient = args

            def add(carry, number):
                row_gradient, scale_gradient, column_gradients, bias_gradients = carry
                column_block = jax.tree.map(lambda leaf: leaf[number], block)
                products, logits, counted, positive = _tile(row_block, column_block, scale)
                slope = _slope(kind, logits, positive, level)
                weights = jnp.where(counted, weight_in[:, None] * slope, 0.0)
                scaled = scale * weights
                row_gradient += _dot(scaled, column_block[0], ((1,), (0,)))
                column_gradients = column_gradients.at[number].add(
                    _dot(scaled, row_block[0], ((0,), (0,)))
                )
                bias_gradients = bias_gradients.at[number].add(jnp.sum(weights, axis=0))
                scale_gradient += jnp.sum(weights * products)
                return (row_gradient, scale_gradient, column_gradients, bias_gradients), None

            start = (row_gradient, scale_gradient, column_gradients, bias_gradients)
            (row_gradient, *carry), _ = lax.scan(add, start, jnp.arange(column_count))
            return tuple(carry), row_gradient

        carry = (scale_gradient, column_gradients, bias_gradients)
        carry, row_gradients = lax.scan(
            of_row_block, carry, (row_blocks, levels, weights_in, row_gradients)
        )
        scale_gradient, *travelling = carry
        # The columns' gradients go round with them, and so come home.
        block, *travelling = _pass_on((block, *travelling), axis)
        return (row_gradients, scale_gradient, block, *travelling), None

    column_gradients = jnp.zeros((*column_blocks[0].shape[:2], columns.shape[1]))
    bias_gradients = jnp.zeros(column_blocks[0].shape[:2])
    start = (row_gradients, jnp.zeros(()), column_blocks, column_gradients, bias_gradients)
    end, _ = lax.scan(round_trip, start, None, length=_axis_size(axis))
    row_gradients, scale_gradient, _, column_gradients, bias_gradients = end
    if axis is not None:
        scale_gradient = lax.psum(scale_gradient, axis)
    return (
        row_gradients.reshape(-1, rows.shape[1])[: rows.shape[0]].astype(rows.dtype),
        column_gradients.reshape(-1, columns.shape[1])[: columns.shape[0]].astype(columns.dtype),
        scale_gradient.astype(scale.dtype),
        bias_gradients.reshape(-1)[: bias.shape[0]].astype(bias.dtype),
        None,
    )


sum_over_pairs.defvjp(_save, sums_gradient)


def _cut(rows, columns, bias, pairs: Pairs, chunk_size: int) -> tuple[Any, Any]:
    """Both sets in blocks of equal size; padding is never counted."""
    row_size = min(chunk_size, rows.shape[0])
    column_size = min(chunk_size, columns.shape[0])

    def blocks(leaf, size, filler=0):
        padding = -leaf.shape[0] % size
        leaf = jnp.pad(leaf, ((0, padding), *[(0, 0)] * (leaf.ndim - 1)), constant_values=filler)
        return leaf.reshape(-1, size, *leaf.shape[1:])

    ids = pairs.row_ids, pairs.column_ids
    row_ids = None if ids[0] is None else blocks(ids[0], row_size)
    column_ids = None if ids[1] is None else blocks(ids[1], column_size)
    row_blocks = blocks(rows, row_size), blocks(pairs.row_places, row_size, -1), row_ids
    column_blocks = (
        blocks(columns, column_size),
        blocks(bias, column_size),
        blocks(pairs.column_places, column_size, -2),
        blocks(pairs.column_mask, column_size, False),
        column_ids,
    )
    return row_blocks, column_blocks


def _tile(row_block, column_block, scale):
    """Products, logits, and which pairs count and are positive."""
    rows, row_places, row_ids = row_block
    columns, bias, column_places, column_mask, column_ids = column_block
    pairs = Pairs(row_places, column_places, column_mask, row_ids, column_ids)
    products = _products(rows, columns)
    return products, scale * products + bias[None], is_counted(pairs), is_positive(pairs)


def _accumulate(kind: Kind, sums, logits, counted, positive):
    """Adds a tile to the sums of its rows: a running top and the sum of exponentials over it."""
    top, total = sums
    if kind == "sigmoid":
        losses = jax.nn.softplus(jnp.where(positive, -logits, logits))
        return top, total + jnp.sum(jnp.where(counted, losses, 0.0), axis=1)
    logits = jnp.where(counted, logits, FLOOR)
    new = jnp.maximum(top, jnp.max(logits, axis=1))
    more = jnp.where(counted, jnp.exp(logits - new[:, None]), 0.0)
    return new, total * jnp.exp(top - new) + jnp.sum(more, axis=1)


def _slope(kind: Kind, logits, positive, level):
    """Derivative of a row's number by each logit."""
    if kind == "sigmoid":
        return jax.nn.sigmoid(logits) - positive
    return jnp.exp(jnp.minimum(logits - level[:, None], 0.0))


def _products(rows, columns):
    return _dot(rows, columns, ((1,), (1,)))


def _dot(left, right, contracted):
    if left.dtype != right.dtype:
        right = right.astype(left.dtype)
    return lax.dot_general(
        left,
        right,
        (contracted, ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _axis_size(axis: str | None) -> int:
    return 1 if axis is None else lax.axis_size(axis)


def _pass_on(tree, axis: str | None):
    """Sends every leaf to the next device of the axis."""
    if axis is None:
        return tree
    size = lax.axis_size(axis)
    order = [(device, (device + 1) % size) for device in range(size)]
    return jax.tree.map(lambda leaf: lax.ppermute(leaf, axis, order), tree)
