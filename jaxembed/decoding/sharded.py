"""Decoding of a batch that lies on several devices, each of which stops by itself."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from jaxembed.decoding.decoded import Decoded


def search_by_shard(
    search: Callable[[PyTree, PyTree], Decoded], mesh: Mesh, *, axis: str = "data"
) -> Callable[[PyTree, PyTree], Decoded]:
    """Makes a search run on each device's part of the batch as if there were no other.

    Under `jit` alone a loop goes on until the slowest item of the whole batch is done, and asks
    all devices at every step. Here a device leaves its loop when its own items are done, and
    nothing is sent during the search.

    Args:
        search: `(shared, batch) -> Decoded`, pure, such as `lambda params, batch:
            beam_search(..., batch_size=len(batch["tokens"]))`. It sees one device's rows, so it
            must take the batch size from them.
        mesh: Devices.
        axis: The mesh axis that the batch is spread over.

    Returns:
        A function of the same arguments, for `jax.jit`: `shared` goes whole to every device, the
        leaves of `batch` and of the result are split by rows, in order.

    Raises:
        ValueError: If the mesh has no such axis, or (when called) the rows do not divide evenly.
    """
    if axis not in mesh.shape:
        raise ValueError(f"The mesh has axes {mesh.axis_names}, not {axis!r}.")
    split = PartitionSpec(axis)
    mapped = jax.shard_map(
        search,
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        check_vma=False,
    )

    def search_all(shared: PyTree, batch: PyTree) -> Decoded:
        for path, leaf in jax.tree.leaves_with_path(batch):
            if leaf.shape[0] % mesh.shape[axis]:
                raise ValueError(
                    f"batch{jax.tree_util.keystr(path)} has {leaf.shape[0]} rows, which do not "
                    f"divide among {mesh.shape[axis]} devices: pad the batch."
                )
        return mapped(shared, batch)

    return search_all
