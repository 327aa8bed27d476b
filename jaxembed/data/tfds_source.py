"""TensorFlow Datasets as random access sources, without importing TensorFlow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

PREFIX = "tfds:"
_GRAMMAR = re.compile(
    r"tfds:(?P<name>\w+(?:/[^:/]+)?)(?::(?P<version>\d+\.[\d.*]+))?(?::(?P<split>[^:].*))?"
)


def open_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Any:
    """Opens a data set of TensorFlow Datasets.

    Args:
        name: `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`; the split is `train` where none is named,
            and may be a slice such as `train[:10%]`.
        data_dir: Where prepared data lie; None takes TFDS_DATA_DIR or tfds' own default.

    Returns:
        A source with `len` and `[i]`; an element is a dict of numpy values, a text is bytes.

    Raises:
        ValueError: If `name` is not of that form, or the data are neither prepared nor
            can be downloaded.
        KeyError: If there is no such split.
    """
    builder, split = _prepared_builder(name, data_dir)
    return builder.as_data_source(split=split)


def read_tfds_text(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Streams the first text feature of a data set.

    Args:
        name: As for `open_tfds`.
        data_dir: As for `open_tfds`.

    Yields:
        The text of each example, in order.

    Raises:
        ValueError: If the data set has no text, or as for `open_tfds`.
        KeyError: If there is no such split.
    """
    import tensorflow_datasets as tfds

    builder, split = _prepared_builder(name, data_dir)
    features = builder.info.features
    column = next((k for k, f in features.items() if isinstance(f, tfds.features.Text)), None)
    if column is None:
        raise ValueError(f"{name} has no text: its features are {list(features)}.")
    decoders = {other: tfds.decode.SkipDecoding() for other in features if other != column}
    source = builder.as_data_source(split=split, decoders=decoders)
    for index in range(len(source)):
        text = source[index][column]
        try:
            yield text.decode("utf-8") if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: text {index} is not UTF-8 ({error}): mend it.") from error


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Any, str]:
    """The builder of a data set whose data are on the disk, and the split asked for."""
    import tensorflow_datasets as tfds

    parts = _GRAMMAR.fullmatch(name)
    if parts is None:
        raise ValueError(
            f"{name!r} does not name a TFDS data set: write tfds:NAME[/CONFIG][:VERSION][:SPLIT]."
        )
    data_dir = os.environ.get("TFDS_DATA_DIR") if data_dir is None else os.fspath(data_dir)
    full_name = parts["name"] + (f":{parts['version']}" if parts["version"] else "")
    try:
        # Only array_record files can be read at random without TensorFlow.
        builder = tfds.builder(full_name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # tfds, its builders and the network raise anything
        raise ValueError(
            f"{name} is not prepared under {data_dir or 'the default data folder of tfds'} and "
            f"could not be prepared now ({type(error).__name__}: {str(error)[:300]}): set "
            "TFDS_DATA_DIR to a folder where it was prepared with file_format='array_record', "
            "or prepare it on a machine with network access and copy the folder."
        ) from error
    split = parts["split"] or "train"
    unknown = [part for part in re.findall(r"[^+\[]+(?:\[[^\]]*\])?", split)]
    unknown = [part for part in unknown if part.partition("[")[0] not in builder.info.splits]
    if unknown:
        raise KeyError(f"{name} has no split {unknown[0]!r}: {sorted(builder.info.splits)} are.")
    return builder, split
