"""A loss over a batch whose encoders see it in small parts: GradCache as a plain function.

A loop over parts, each computed again in the backward pass (`jax.checkpoint`), is the algorithm of
the paper: first all vectors, then the loss over them, then the encoders again with the gradients of
their vectors. `jax.grad` writes it, under any loss, optimizer or sharding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Key, PyTree

EncodeFn = Callable[[PyTree, PyTree, Key[Array, ""]], PyTree]


def encode_in_micro_batches(
    encode: EncodeFn,
    params: PyTree,
    inputs: PyTree,
    key: Key[Array, ""],
    *,
    micro_batch: int,
) -> PyTree:
    """Encodes a batch part by part, so that memory grows with the part and not with the batch.

    The gradient is that of the whole batch: a part is encoded again in the backward pass, with the
    same random key. Rows of a part are taken at equal distances, so that every part of a batch that
    is spread over devices is spread likewise, and none of it moves.

    Args:
        encode: `(params, inputs, key) -> vectors`, pure; row by row, so no batch statistics.
        params: Its parameters.
        inputs: Tree of arrays with equal leading axes, the batch.
        key: Random key, for dropout; each part has its own.
        micro_batch: Rows of a part; divides the batch.

    Returns:
        The vectors of all rows, in their order.

    Raises:
        ValueError: If `micro_batch` does not divide the batch.

    Reference: Gao et al., 2021, https://arxiv.org/abs/2101.06983, section 3.
    """
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(inputs)}
    if len(rows) != 1 or micro_batch < 1 or min(rows) % micro_batch:
        raise ValueError(
            f"inputs of {sorted(rows)} rows in micro-batches of {micro_batch}: give rows of one "
            "number, and a divisor of it."
        )
    count = rows.pop() // micro_batch
    # Seen as [micro_batch, count, ...], a part is a column: nothing is copied but the part.
    columns = jax.tree.map(lambda leaf: leaf.reshape(micro_batch, count, *leaf.shape[1:]), inputs)

    def encode_part(params, columns, key, index):
        part = jax.tree.map(
            lambda leaf: lax.dynamic_index_in_dim(leaf, index, 1, keepdims=False), columns
        )
        return encode(params, part, jax.random.fold_in(key, index))

    # In a loop nothing can be shared with the first pass, so the barrier against it is not needed.
    again = jax.checkpoint(encode_part, prevent_cse=False)
    vectors = lax.map(lambda index: again(params, columns, key, index), jnp.arange(count))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), vectors)
