"""Folders of pictures with a table of captions."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxembed.data.faults import Faults, check_text
from jaxembed.data.images import PICTURES, decode_picture

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


def read_rows(path: pathlib.Path, faults: Faults) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a table of texts with a header.

    Args:
        path: A .tsv file, whose fields are as they stand between tabs, or a .csv file.
        faults: Hears of rows with too few or too many columns.

    Yields:
        Where a row stands, such as "captions.csv, line 3", and its fields by column.

    Raises:
        ValueError: If the file is no UTF-8 or has no header.
    """
    is_tabs = path.suffix.lower() == ".tsv"
    options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tabs else {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, **options)
            header = next(reader, None)
            if not header:
                raise ValueError(f"{path} is empty: give a table with a header.")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    message = f"{where} has {len(row)} columns, but the header {len(header)}"
                    faults.report("ragged rows", message)
                    continue
                yield where, dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it.") from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}: mend it.") from error


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
        for field in (data.image_field, data.caption_field):
            if field not in row:
                raise KeyError(f"{table} has no column {field!r}: its header is {list(row)}.")
        name = row[data.image_field].strip()
        if not name:
            faults.report("captions without images", f"{where}: a caption without an image")
            continue
        text = check_text(row[data.caption_field], data.longest, "caption", where, faults)
        if text:
            captions.setdefault(name, []).append(text)
    return {name: tuple(dict.fromkeys(texts)) for name, texts in captions.items()}
