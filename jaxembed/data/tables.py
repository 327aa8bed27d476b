"""Tables of texts: .tsv, .csv, .jsonl and .parquet."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxembed.data.faults import Faults

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
Row = tuple[str, dict[str, Any]]


def read_rows(path: pathlib.Path, faults: Faults) -> Iterator[Row]:
    """Reads a table.

    Args:
        path: A .tsv file with a header, whose fields are as they stand between tabs; a .csv file
            with a header; a .jsonl file of an object a line; or a .parquet file, which needs
            pyarrow.
        faults: Hears of rows with too few or too many columns and of lines that are no objects.

    Yields:
        Where a row stands, such as "captions.csv, line 3", and its fields by column.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If pyarrow is wanted and not installed.
        ValueError: If the file is of another kind, empty, damaged or no UTF-8.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ValueError(f"{path} is no table that is known: give one of {', '.join(TABLES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    if suffix == ".parquet":
        return _read_parquet(path)
    return _read_jsonl(path, faults) if suffix == ".jsonl" else _read_separated(path, faults)


def field_text(row: dict[str, Any], field: str, path: pathlib.Path | str) -> str:
    """Takes a text out of a row.

    Args:
        row: The row.
        field: Name of the column.
        path: Where the row is from.

    Returns:
        The text; "" where nothing is given.

    Raises:
        KeyError: If there is no such column.
        ValueError: If it holds something else.
    """
    if field not in row:
        raise KeyError(f"{path} has no column {field!r}: its columns are {list(row)}.")
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{path}: {field} is {value!r:.40}: wanted a text.")
    return value or ""


def _read_separated(path: pathlib.Path, faults: Faults) -> Iterator[Row]:
    is_tabs = path.suffix.lower() == ".tsv"
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tabs else {}
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, **options)
            header = next(reader, None)
            if not header:
                raise ValueError(f"{path} is empty: give a table with a header.")
            for row in reader:
                line = reader.line_num
                where = f"{path}, line {line}"
                if row and len(row) != len(header):
                    message = f"{where} has {len(row)} columns, but the header {len(header)}"
                    faults.report("ragged rows", message)
                elif row:  # not an empty line
                    yield where, dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it.") from error
    except csv.Error as error:
        raise ValueError(f"{path}, after line {line}: {error}: mend it.") from error


def _read_jsonl(path: pathlib.Path, faults: Faults) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                faults.report("unreadable rows", f"{where} is no JSON ({error})")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                faults.report("unreadable rows", f"{where} is no JSON object: {line[:40]!r}")


def _read_parquet(path: pathlib.Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is read with pyarrow: pip install pyarrow, or give a .tsv or .jsonl file."
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet file, or damaged ({error}).") from error
