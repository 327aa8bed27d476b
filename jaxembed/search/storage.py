"""Indices on disk: a directory of an index.json and a folder of .npy files, without pickle.

The index.json names the folder of its arrays, so that replacing this one file, which the system
does at once, replaces the index: whoever reads finds all of the old one or all of the new.
"""

import contextlib
import json
import os
import pathlib
import shutil
import zlib
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxembed.search.index import Index

PathLike = str | os.PathLike[str]
FORMAT, VERSION, HEADER, FOLDER = "jaxembed.index", 2, "index.json", "arrays."
BYTES_AT_ONCE = 1 << 20


def load_index(path: PathLike) -> "Index":
    """Reads an index of any kind.

    Args:
        path: A directory that `Index.save` wrote.

    Returns:
        The index, on the default device.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If it is truncated, altered, or not an index; the message says which.
    """
    name, metadata, arrays = read_directory(path)
    classes = _classes()
    if name not in classes:
        known = ", ".join(sorted(classes))
        raise ValueError(f"{path}: holds a {name!r}, which is none of {known}.")
    cls = classes[name]
    wanted = set(cls.__dataclass_fields__)
    if (found := {*metadata, *arrays}) != wanted:
        raise ValueError(
            f"{path}: a {name} has fields {sorted(wanted)}, but the directory {sorted(found)}: "
            "it was written by another version."
        )
    return cls(**metadata, **{key: jnp.asarray(array) for key, array in arrays.items()})


def write_directory(
    path: PathLike, name: str, metadata: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Writes a directory, or replaces the index in one, at once or not at all.

    The arrays go into a new folder in it and are flushed to the disk; then a new index.json takes
    the place of the old one, and the old arrays are removed. A kill at any moment leaves the old
    index, or none where there was none, and at worst a folder that the next save removes.

    Args:
        path: The directory.
        name: Class of the index.
        metadata: JSON values.
        arrays: Arrays of numbers.

    Raises:
        ValueError: If something that is not an index is at `path`, or an array holds no numbers.
        OSError: If it cannot be written.
    """
    final = pathlib.Path(path).absolute()
    if final.exists() and not _may_be_replaced(final):
        raise ValueError(f"{path} exists and is not an index: it was left as it is.")
    is_new = not final.exists()
    final.mkdir(parents=True, exist_ok=True)
    number, folder = _make_folder(final)
    try:
        described = {key: _write_array(folder, key, array) for key, array in arrays.items()}
        header = {"format": FORMAT, "version": VERSION, "class": name, "folder": folder.name}
        header |= {"metadata": metadata, "arrays": described}
        header["crc32"] = _header_crc32(header)
        with open(folder / HEADER, "w", encoding="utf-8") as file:
            json.dump(header, file, indent=1)
            _flush(file)
        for written in (folder, final, final.parent):
            _flush_directory(written)
        os.replace(folder / HEADER, final / HEADER)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(final)
        raise
    _flush_directory(final)
    for other in _folders(final):
        # A later number is of a save that has begun meanwhile.
        if other < number:
            shutil.rmtree(final / f"{FOLDER}{other}", ignore_errors=True)


def read_directory(path: PathLike) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `write_directory` wrote and checks every byte.

    Args:
        path: The directory.

    Returns:
        Class, metadata (tuples for lists) and arrays.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If it is truncated, altered, or not an index; the message says which.
    """
    folder = pathlib.Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"There is no index at {path}.")
    header = _read_header(folder)
    try:
        arrays = _read_arrays(folder, header)
    except ValueError:
        # Replaced while it was read? Then the new one is whole.
        if _read_header(folder) == header:
            raise
        return read_directory(path)
    metadata = {key: _tuples(value) for key, value in header["metadata"].items()}
    return header["class"], metadata, arrays


def _classes() -> dict[str, type["Index"]]:
    """All kinds of index by name; imported here because they import this file."""
    from jaxembed.search.binary import BinaryIndex
    from jaxembed.search.exact import ExactIndex
    from jaxembed.search.hashing import LSHIndex
    from jaxembed.search.ivf import IVFIndex
    from jaxembed.search.ivfpq import IVFPQIndex
    from jaxembed.search.product import PQIndex
    from jaxembed.search.rabitq import RabitqIndex
    from jaxembed.search.scalar import Int4Index, Int8Index
    from jaxembed.search.scann import ScannIndex
    from jaxembed.search.tree import BallTreeIndex

    classes = [
        BallTreeIndex,
        BinaryIndex,
        ExactIndex,
        IVFIndex,
        IVFPQIndex,
        Int4Index,
        Int8Index,
        LSHIndex,
        PQIndex,
        RabitqIndex,
        ScannIndex,
    ]
    return {cls.__name__: cls for cls in classes}


def _folders(final: pathlib.Path) -> list[int]:
    """Numbers of the folders of arrays in a directory."""
    names = (entry.name.removeprefix(FOLDER) for entry in final.glob(f"{FOLDER}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _make_folder(final: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Makes the folder with the first number above all others."""
    number = max(_folders(final), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = final / f"{FOLDER}{number}"
            folder.mkdir()
            return number, folder


def _write_array(folder: pathlib.Path, key: str, array: np.ndarray) -> dict[str, Any]:
    """Writes one array; gives what index.json says of it."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{key} has dtype {array.dtype}, which a .npy file cannot hold.")
    name = f"{key}.npy"
    with open(folder / name, "wb") as file:
        np.save(file, np.asarray(array, order="C"))
        _flush(file)
    size, crc32 = _measure(folder / name)
    shape = list(array.shape)
    return {"dtype": array.dtype.str, "shape": shape, "bytes": size, "crc32": crc32}


def _read_arrays(folder: pathlib.Path, header: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads all arrays that a header describes."""
    name, described = header["folder"], header["arrays"]
    if not name.removeprefix(FOLDER).isdecimal() or not all(map(str.isidentifier, described)):
        raise ValueError(f"{folder}: {HEADER} names files that no save makes: it was altered.")
    return {key: _read_array(folder / name, key, what) for key, what in described.items()}


def _read_array(folder: pathlib.Path, key: str, description: dict[str, Any]) -> np.ndarray:
    """Reads one array, if its file is byte for byte what was written."""
    file = folder / f"{key}.npy"
    if not file.exists():
        raise ValueError(f"{folder}: {file.name} is missing; was the directory copied whole?")
    size, crc32 = _measure(file)
    if size != description["bytes"]:
        raise ValueError(
            f"{folder}: {file.name} has {size} bytes, but {description['bytes']} were written: it "
            "was cut short or replaced."
        )
    if crc32 != description["crc32"]:
        raise ValueError(f"{folder}: the checksum of {file.name} differs: it was altered.")
    array = np.load(file)
    if array.dtype.str != description["dtype"] or list(array.shape) != description["shape"]:
        raise ValueError(f"{folder}: {file.name} is not the array that index.json describes.")
    return array


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks index.json."""
    file = folder / HEADER
    if not file.is_file():
        raise ValueError(
            f"{folder}: there is no {HEADER}: it is no index, or one whose save was cut short."
        )
    try:
        header = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); was it cut short?") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{file}: not of format {FORMAT!r}: another program wrote it.")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{file}: of version {header.get('version')}, but this program reads {VERSION}."
        )
    if header.get("crc32") != _header_crc32(header):
        raise ValueError(f"{file}: its checksum differs: it was altered.")
    return header


def _header_crc32(header: dict[str, Any]) -> int:
    """Checksum of all that index.json says, without the checksum itself."""
    rest = {key: value for key, value in header.items() if key != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _measure(file: pathlib.Path) -> tuple[int, int]:
    """Size and CRC-32 of a file."""
    size = crc32 = 0
    with open(file, "rb") as stream:
        while block := stream.read(BYTES_AT_ONCE):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32


def _may_be_replaced(final: pathlib.Path) -> bool:
    """Whether a directory is an index, or empty but for what a killed save left."""
    if not final.is_dir():
        return False
    if not (final / HEADER).exists():
        left = {f"{FOLDER}{number}" for number in _folders(final)}
        return {entry.name for entry in final.iterdir()} <= left
    try:
        header = json.loads((final / HEADER).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def _tuples(value: Any) -> Any:
    """JSON lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_directory(folder: pathlib.Path) -> None:
    """Flushes the names in a directory, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
