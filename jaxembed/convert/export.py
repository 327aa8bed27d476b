"""An encoder as one file that runs without its code: StableHLO by `jax.export`, parameters inside.

A reader needs jax alone: `jax.export.deserialize(bytearray(file)).call(*inputs)`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jaxtyping import Array, PyTree

from jaxembed.atomic import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


def export_encoder(
    path: str | os.PathLike[str],
    encode: Callable[..., Any],
    params: PyTree,
    inputs: Sequence[jax.ShapeDtypeStruct | Array],
    *,
    any_batch: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> int:
    """Writes an encoder with its parameters into a file.

    Args:
        path: The file, written whole or not at all.
        encode: `(params, *inputs) -> vectors`, pure: one tower of a dual encoder, for example.
        params: Its parameters, which become constants of the file.
        inputs: Shape and dtype of each input, the batch first; arrays do as well.
        any_batch: Whether the file takes batches of any size, or only of the size of `inputs`.
        platforms: Devices it shall run on.

    Returns:
        Bytes written.

    Raises:
        ValueError: If inputs have no batch, or `encode` cannot be exported so.
    """
    shapes = [jax.ShapeDtypeStruct(np.shape(one), one.dtype) for one in inputs]
    if not shapes or not all(one.shape for one in shapes):
        raise ValueError("inputs need a leading axis, the batch, each: give their shapes.")
    if any_batch:
        (batch,) = export.symbolic_shape("batch")
        shapes = [jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype) for one in shapes]
    constants = jax.tree.map(np.asarray, params)
    made = export.export(jax.jit(lambda *inputs: encode(constants, *inputs)), platforms=platforms)
    content = made(*shapes).serialize()
    with write_atomically(Path(path)) as file:
        file.write(content)
    return len(content)
