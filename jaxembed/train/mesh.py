"""The device mesh, which logical axis lies on which mesh axis, and arrays put onto it."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

LogicalAxes = tuple[str | None, ...]

# `dim`, the residual stream, stays whole, so a [dim, width] or [vocab, dim] matrix is cut once.
MESH_AXES: Mapping[str, str | None] = MappingProxyType(
    {
        "batch": "data",
        "length": None,
        "dim": None,
        "beam": None,
        "width": "model",
        "vocab": "model",
        "heads": "model",
    }
)


def make_mesh(
    data: int | None = None, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes a mesh with the axes ("data", "model").

    Args:
        data: Number of devices that a batch is spread over; None takes all that `model` leaves.
        model: Number of devices that one copy of the parameters is spread over.
        devices: The devices to use, by default all of every process.

    Returns:
        A mesh of `data * model` devices with Auto axes.

    Raises:
        ValueError: If a count is not positive or the counts do not fit the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if data is None:
        data = len(devices) // max(model, 1)
    if data < 1 or model < 1 or data * model != len(devices):
        raise ValueError(
            f"A mesh of data={data} x model={model} needs {data * model} devices, but there are "
            f"{len(devices)}: choose counts whose product is that, or pass `devices`."
        )
    # Explicit axes, the default of JAX, break linen's Embed and RNN.
    return jax.make_mesh(
        (data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def logical_sharding(mesh: Mesh, axes: LogicalAxes) -> NamedSharding:
    """Says how an array with the named axes lies on the mesh.

    Args:
        mesh: A mesh of `make_mesh`.
        axes: One logical name a dimension, or None for a dimension that is not cut. Trailing
            dimensions may be left out; `()` is a copy on every device.

    Returns:
        The sharding.

    Raises:
        KeyError: If a name is unknown; the message names the nearest known one.
        ValueError: If two axes of the array lie on the same mesh axis.
    """
    spec = [None if name is None else _mesh_axis(name) for name in axes]
    used = [axis for axis in spec if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(
            f"Clashing axes {axes}: on the mesh they are {tuple(spec)}, and one array can lie on "
            "a mesh axis only once: replace one of the names by None."
        )
    return NamedSharding(mesh, PartitionSpec(*spec))


def whole_tree_axes(tree: PyTree, mesh: Mesh) -> PyTree | None:
    """Cuts every array that can be cut over the mesh axis "model": parameters fully sharded.

    Args:
        tree: Arrays or `jax.ShapeDtypeStruct`s of parameters of any model.
        mesh: A mesh of `make_mesh`.

    Returns:
        Logical axes of each array: its last dimension that divides among the devices is cut, and
        arrays without one are copied. None where one device holds all.
    """
    count = mesh.shape["model"]
    if count == 1:
        return None

    def axes(leaf: Any) -> LogicalAxes:
        fitting = [place for place, size in enumerate(leaf.shape) if size and size % count == 0]
        if not fitting:
            return ()
        return (None,) * fitting[-1] + ("width",)

    return jax.tree.map(axes, tree)


def tree_shardings(mesh: Mesh, tree: PyTree, axes: PyTree | None) -> PyTree[Sharding]:
    """Says how every array of a tree lies on the mesh.

    Args:
        mesh: A mesh of `make_mesh`.
        tree: Arrays or `jax.ShapeDtypeStruct`s.
        axes: The same tree with a tuple of logical names in place of each array; None puts a
            copy of every array on every device.

    Returns:
        The tree with a sharding in place of each array.

    Raises:
        KeyError: If a name is unknown.
        ValueError: If the trees differ, names clash, or a dimension does not divide.
    """
    if axes is None:
        return jax.tree.map(lambda _: logical_sharding(mesh, ()), tree)

    def leaf_sharding(path: Any, leaf: Any, names: Any) -> NamedSharding:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(names, tuple) or len(names) > len(leaf.shape):
            raise ValueError(
                f"{where} of shape {leaf.shape} has the logical axes {names}: "
                "give a tuple with at most one name a dimension."
            )
        sharding = logical_sharding(mesh, names)
        for name, size, axis in zip(names, leaf.shape, sharding.spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"{where}: {name} = {size} does not divide by the {mesh.shape[axis]} devices "
                    f"of mesh axis {axis!r}: pad it to a multiple."
                )
        return sharding

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree, axes)


def put_tree(mesh: Mesh, tree: PyTree, axes: PyTree | None = None) -> PyTree[jax.Array]:
    """Puts a whole tree onto the mesh; every process passes the same full arrays.

    Args:
        mesh: A mesh of `make_mesh`.
        tree: Arrays on the host or on devices.
        axes: Logical axes of each array, see `tree_shardings`.

    Returns:
        Global arrays.

    Raises:
        KeyError: If a name is unknown.
        ValueError: If the trees differ, names clash, or a dimension does not divide.
    """
    return jax.tree.map(_put_leaf, tree, tree_shardings(mesh, tree, axes))


def _put_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """`device_put`, which refuses an array of one device where the mesh spans processes."""
    is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if jax.process_count() == 1 or not is_local:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
        words = _put_leaf(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def put_batch(
    mesh: Mesh | None, batch: PyTree, batch_axis: Literal["batch"] | None = "batch"
) -> PyTree[jax.Array]:
    """Puts a batch from the host onto the mesh.

    Args:
        mesh: A mesh of `make_mesh`, or None for the default device.
        batch: Numpy arrays with the rows of this process only. They must not change afterwards:
            on CPU the device may read the memory of the host.
        batch_axis: "batch" spreads the leading axis of each array over the mesh; None puts
            the same arrays, passed by every process, on every device. Scalars always are copied.

    Returns:
        Global arrays; their leading axis is that of all processes together.

    Raises:
        ValueError: If the rows do not divide over the devices.
    """
    if mesh is None:
        return jax.device_put(batch)
    rows, copied = logical_sharding(mesh, (batch_axis,)), logical_sharding(mesh, ())
    local_devices = max(mesh.shape["data"] // jax.process_count(), 1)

    def leaf_sharding(leaf: Any) -> NamedSharding:
        if batch_axis is None or not leaf.shape:
            return copied
        if leaf.shape[0] % local_devices:
            raise ValueError(
                f"A batch of {leaf.shape[0]} rows does not divide over {local_devices} devices of "
                "mesh axis 'data': choose a multiple, and drop or pad the last batch."
            )
        return rows

    shardings = jax.tree.map(leaf_sharding, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    return jax.tree.map(jax.make_array_from_process_local_data, shardings, batch)


def _mesh_axis(name: str) -> str | None:
    """Looks up the mesh axis of one logical name."""
    if name not in MESH_AXES:
        nearest = difflib.get_close_matches(name, MESH_AXES, n=1, cutoff=0.0)[0]
        raise KeyError(
            f"Unknown logical axis {name!r}, nearest is {nearest!r}: use one of "
            f"{sorted(MESH_AXES)} or None."
        )
    return MESH_AXES[name]
