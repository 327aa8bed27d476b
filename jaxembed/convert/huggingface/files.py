"""Folders of Hugging Face: a configuration and named tensors, in and out, without torch."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from jaxembed.atomic import write_atomically

PathLike = str | os.PathLike[str]
CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
# Theirs to a name in `jaxembed.nn.ACTIVATIONS`.
ACTIVATIONS = {
    "relu": "relu",
    "tanh": "tanh",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
    "silu": "silu",
    "swish": "silu",
}
_OTHERS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def read_json(file: PathLike) -> Any:
    """Reads a JSON file.

    Args:
        file: Its path.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is cut off, or no JSON in UTF-8.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the folder is not whole, copy it again.")
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}): it is cut off or damaged.") from error


def write_json(file: PathLike, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with write_atomically(file) as out:
        out.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def our_activation(config: Mapping[str, Any], name: str) -> str:
    """The activation that a configuration names.

    Raises:
        ValueError: If it has no counterpart here.
    """
    if config[name] not in ACTIVATIONS:
        raise ValueError(
            f"{name} is {config[name]!r}: one of {', '.join(ACTIVATIONS)} can be converted."
        )
    return ACTIVATIONS[config[name]]


def their_activation(name: str) -> str:
    """The first name there of an activation here."""
    for theirs, ours in ACTIVATIONS.items():
        if ours == name:
            return theirs
    raise ValueError(f"The activation {name!r} has no name in Hugging Face's configurations.")


def check_choices(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses settings that have no counterpart here.

    Args:
        config: A configuration.
        wanted: The only value that each setting may have, if it is there.

    Raises:
        ValueError: If one has another.
    """
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} is {config[name]!r}: only {value!r} can be converted.")


def read_folder(folder: PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads `config.json` and the weights beside it.

    Args:
        folder: Holds `model.safetensors`, or its parts and `model.safetensors.index.json`.

    Returns:
        The configuration, and the tensors by name as they are stored.

    Raises:
        FileNotFoundError: If a file is missing; the message names it.
        ValueError: If a file is cut off or damaged, or a part lacks a tensor that the index says
            it has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} holds a {type(config).__name__}, not an object.")
    return config, read_tensors(folder)


def read_tensors(folder: PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a folder; see `read_folder`."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return _read_safetensors(folder / WEIGHTS)
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{folder / INDEX} has no weight_map: it is damaged.")
    tensors: dict[str, np.ndarray] = {}
    for part in sorted(set(places.values())):
        if Path(part).name != part:
            raise ValueError(f"{folder / INDEX} names {part!r}, which is not in the folder.")
        found = _read_safetensors(folder / part)
        named = {name for name, where in places.items() if where == part}
        if lacking := sorted(named - found.keys()):
            raise ValueError(f"{folder / part} has no tensor {lacking[0]!r}, but {INDEX} says so.")
        tensors |= found
    return tensors


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        others = [name for name in _OTHERS if (file.parent / name).is_file()]
        instead = f" ({others[0]} cannot be read: save it as safetensors)" if others else ""
        raise FileNotFoundError(f"{file} is missing{instead}.")
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, KeyError) as error:
        size = file.stat().st_size
        raise ValueError(
            f"{file} of {size:,} bytes cannot be read ({error}): it is cut off or damaged, copy "
            "it again."
        ) from error


def write_folder(
    folder: PathLike, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Writes a folder that Hugging Face opens; each file appears whole or not at all.

    Args:
        folder: Made if need be; files of the same names are replaced.
        config: What `config.json` shall hold.
        tensors: Weights by their name there.

    Raises:
        OSError: If the disk is full or the folder is not writable.
    """
    # Not ascontiguousarray, which makes a scalar a vector.
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with write_atomically(Path(folder) / WEIGHTS) as file:
        # Their reader refuses a file that does not say which system it is of.
        file.write(safetensors.numpy.save(arrays, metadata={"format": "pt"}))
    write_json(Path(folder) / CONFIG, dict(config))


class Entry(NamedTuple):
    """One parameter here and there.

    Attributes:
        path: Where it is in the tree of parameters, parts joined by "/".
        name: Its name in their file.
        shape: Its shape there.
        transposed: Whether it is turned round here, as the kernels of torch's linear layers are.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    transposed: bool = False


def dense(path: str, name: str, inputs: int, outputs: int) -> list[Entry]:
    """A dense layer; theirs is a linear layer of torch."""
    return [
        Entry(f"{path}/kernel", f"{name}.weight", (outputs, inputs), True),
        Entry(f"{path}/bias", f"{name}.bias", (outputs,)),
    ]


def norm(path: str, name: str, width: int) -> list[Entry]:
    """A layer normalisation."""
    return [
        Entry(f"{path}/scale", f"{name}.weight", (width,)),
        Entry(f"{path}/bias", f"{name}.bias", (width,)),
    ]


def check_used(
    tensors: Iterable[str], entries: Iterable[Entry], where: object, *, prefix: str
) -> None:
    """Refuses weights that the configuration does not ask for: further layers, for example.

    Args:
        tensors: Names in the file.
        entries: What the configuration asks for.
        where: As in `to_params`.
        prefix: Only names that begin so are looked at; others are of heads that are left out.

    Raises:
        ValueError: If there are any; the message names them.
    """
    known = {entry.name for entry in entries}
    extra = sorted(name for name in tensors if name.startswith(prefix) and name not in known)
    if extra:
        raise ValueError(
            f"{where} has {len(extra)} tensors that its configuration does not ask for: "
            f"{', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}."
        )


def to_params(
    entries: Iterable[Entry], tensors: Mapping[str, np.ndarray], where: object
) -> dict[str, Any]:
    """Builds a tree of parameters from their tensors.

    Args:
        entries: Which go where.
        tensors: Theirs by name.
        where: What the messages call the source, a folder for example.

    Returns:
        The tree, float32.

    Raises:
        ValueError: If tensors are missing, or of other shapes than the configuration says; the
            message names them.
    """
    entries = list(entries)
    lacking = [entry.name for entry in entries if entry.name not in tensors]
    if lacking:
        raise ValueError(
            f"{where} lacks {len(lacking)} of {len(entries)} tensors that its configuration asks "
            f"for: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}."
        )
    tree: dict[str, Any] = {}
    for entry in entries:
        value = np.asarray(tensors[entry.name])
        if value.shape != entry.shape:
            raise ValueError(
                f"{entry.name} of {where} has shape {value.shape}, but its configuration asks for "
                f"{entry.shape}: weights and {CONFIG} are of different models."
            )
        *parents, last = entry.path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        value = value.astype(np.float32, copy=False)
        node[last] = value.T if entry.transposed else value
    return tree


def to_tensors(entries: Iterable[Entry], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Their tensors from a tree of parameters; the inverse of `to_params`.

    Raises:
        ValueError: If a parameter is missing or of another shape.
    """
    tensors = {}
    for entry in entries:
        node: Any = params
        for part in entry.path.split("/"):
            if part not in node:
                raise ValueError(f"the parameters have no {entry.path}: they are of another model.")
            node = node[part]
        value = np.asarray(node, np.float32)
        value = value.T if entry.transposed else value
        if value.shape != entry.shape:
            raise ValueError(
                f"{entry.path} becomes {entry.name} of shape {value.shape}, but the model says "
                f"{entry.shape}: parameters and model do not belong together."
            )
        tensors[entry.name] = value
    return tensors
