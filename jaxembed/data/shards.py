"""Tar shards of images and captions, as webdataset writes them; read without unpacking to disk."""

from __future__ import annotations

import json
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxembed.data.captioned_files import Captioned
from jaxembed.data.faults import Faults, check_text
from jaxembed.data.images import PICTURES, decode_picture

if TYPE_CHECKING:
    from jaxembed.data.captions import ImageCaptions

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error)


def find_shards(path: pathlib.Path) -> list[pathlib.Path]:
    """The tar files at a path: itself, or those in a folder in the order of their names."""
    if path.is_file():
        return [path] if path.name.lower().endswith(_SUFFIXES) else []
    return [file for file in sorted(path.iterdir()) if file.name.lower().endswith(_SUFFIXES)]


def read_shards(path: pathlib.Path, data: ImageCaptions, faults: Faults) -> Iterator[Captioned]:
    """Reads images and captions out of tar files.

    Files of the same name up to the first dot of their last part, one after another, are one
    example: KEY.png (or another picture) and KEY.txt, or KEY.json with the caption in a field.

    Args:
        path: A tar file or a folder of them.
        data: How pictures are scaled, and the name of the JSON field.
        faults: Hears of shards that are cut short or damaged, which are used up to there, and of
            examples without image or caption, with an unreadable image or with a bad caption.

    Yields:
        Name, uint8 pixels and captions of an example, in the order of the shards.
    """
    for shard in find_shards(path):
        key, parts = "", {}
        for name, content in _read_members(shard, faults):
            folder, slash, last = name.rpartition("/")
            stem, _, suffix = last.partition(".")
            if folder + slash + stem != key:
                if parts and (found := _read_example(shard, key, parts, data, faults)):
                    yield found
                key, parts = folder + slash + stem, {}
            parts[f".{suffix.lower()}"] = content
        if parts and (found := _read_example(shard, key, parts, data, faults)):
            yield found


def _read_members(shard: pathlib.Path, faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a shard; says so if it is broken."""
    try:
        with tarfile.open(shard, "r:*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
                if len(content) != member.size:
                    raise tarfile.ReadError(f"{member.name} is cut short")
                yield member.name, content
            # tarfile ends silently at a damaged header; a whole archive ends with zeros.
            archive.fileobj.seek(archive.offset)
            rest = archive.fileobj.read(tarfile.BLOCKSIZE)
            if not rest or rest.strip(b"\0"):
                raise tarfile.ReadError(f"no end of the archive at byte {archive.offset:,}")
    except _BROKEN as error:
        faults.report("broken shards", f"{shard} is damaged or cut short ({error})")


def _read_example(
    shard: pathlib.Path, key: str, parts: dict[str, bytes], data: ImageCaptions, faults: Faults
) -> Captioned | None:
    where = f"{shard}, {key}"
    image = next((parts[suffix] for suffix in PICTURES if suffix in parts), None)
    texts = _captions_of(where, parts, data, faults)
    if texts is None:
        return None
    if image is None:
        message = f"{where} has no image: its files are {sorted(parts)}"
        faults.report("captions without images", message)
        return None
    if not texts:
        faults.report("images without captions", f"{where} has no caption")
        return None
    kept = [check_text(text, data.longest, "caption", where, faults) for text in texts]
    kept = tuple(dict.fromkeys(text for text in kept if text))
    if not kept:
        return None
    try:
        pixels = decode_picture(image, size=data.size, channels=data.channels)
    except OSError as error:
        faults.report("unreadable images", f"{where}: the image cannot be read ({error})")
        return None
    return key, pixels, kept


def _captions_of(
    where: str, parts: dict[str, bytes], data: ImageCaptions, faults: Faults
) -> list[str] | None:
    """All captions of an example; None if they cannot be read."""
    try:
        if ".txt" in parts:
            return [parts[".txt"].decode("utf-8")]
        if ".json" not in parts:
            return []
        found = json.loads(parts[".json"])
    except ValueError as error:
        faults.report("unreadable captions", f"{where}: the caption cannot be read ({error})")
        return None
    value = found.get(data.caption_field, []) if isinstance(found, dict) else []
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        faults.report("unreadable captions", f"{where}: {data.caption_field} holds no text")
        return None
    return values
