"""Folders of pictures with a table of captions."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxembed.data.faults import Faults, check_text
from jaxembed.data.images import PICTURES, decode_picture
from jaxembed.data.tables import field_text, read_rows

if TYPE_CHECKING:
    from jaxembed.data.captions import ImageCaptions

TABLES = ("captions.csv", "captions.tsv")
Captioned = tuple[str, np.ndarray, tuple[str, ...]]


def read_captioned_folder(
    path: pathlib.Path, data: ImageCaptions, faults: Faults
) -> Iterator[Captioned]:
    """Reads pictures and their captions.

    Args:
        path: A table, .csv or .tsv with a header, or a folder with captions.csv or captions.tsv.
            A row names a picture, relative to the table's folder, and a caption; a picture with
            several rows has several captions.
        data: Names of the columns, and how pictures are scaled.
        faults: Hears of pictures that are missing, unreadable or without captions, of empty and
            too long captions and of rows with too few or too many columns.

    Yields:
        Name, uint8 pixels and captions of a picture, in the order of the table.

    Raises:
        FileNotFoundError: If there is no table.
        KeyError: If the table lacks a column.
    """
    table = path if path.is_file() else _find_table(path)
    folder = table.parent
    captions = _read_table(table, data, faults)
    for name, texts in captions.items():
        picture = folder / name
        if not picture.is_file():
            faults.report("missing images", f"{table} names {name}, but there is no {picture}")
            continue
        try:
            pixels = decode_picture(picture, size=data.size, channels=data.channels)
        except OSError as error:
            faults.report("unreadable images", f"{picture} cannot be read ({error})")
            continue
        yield name, pixels, texts
    for picture in sorted(folder.rglob("*")):
        if picture.suffix.lower() in PICTURES and picture.is_file():
            if picture.relative_to(folder).as_posix() not in captions:
                message = f"{picture} has no (good) caption in {table}"
                faults.report("images without captions", message)


def _find_table(folder: pathlib.Path) -> pathlib.Path:
    for name in TABLES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} has neither {' nor '.join(TABLES)}, tar shards nor a set that is known: give "
        "the pictures a table with the columns image and caption."
    )


def _read_table(
    table: pathlib.Path, data: ImageCaptions, faults: Faults
) -> dict[str, tuple[str, ...]]:
    """Captions by picture, in the order of the table."""
    captions: dict[str, list[str]] = {}
    for where, row in read_rows(table, faults):
        name = field_text(row, data.image_field, table).strip()
        if not name:
            faults.report("captions without images", f"{where}: a caption without an image")
            continue
        caption = field_text(row, data.caption_field, table)
        text = check_text(caption, data.longest, "caption", where, faults)
        if text:
            captions.setdefault(name, []).append(text)
    return {name: tuple(dict.fromkeys(texts)) for name, texts in captions.items()}
