"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that appears under `path` only if the `with` block ends without an error.

    The bytes go to a hidden file in the same folder, which is flushed to the disk and then
    renamed; on an error it is removed and what was at `path` before is still there.

    Args:
        path: Where the file shall be; its folder is made if need be.

    Yields:
        The open binary file.

    Raises:
        OSError: If the disk is full (errno ENOSPC) or the folder is not writable.
    """
    with _removed_at_end(path, "partial") as partial:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextlib.contextmanager
def scratch_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a hidden file beside `path`, to be written and read, which the end removes.

    Args:
        path: The file that the work is for; its folder is made if need be.

    Yields:
        The open binary file.

    Raises:
        OSError: If the disk is full (errno ENOSPC) or the folder is not writable.
    """
    with _removed_at_end(path, "scratch") as scratch, open(scratch, "w+b") as file:
        yield file


@contextlib.contextmanager
def _removed_at_end(path: str | os.PathLike[str], kind: str) -> Iterator[pathlib.Path]:
    """A hidden name beside `path`; explains a full disk."""
    final = pathlib.Path(path)
    hidden = final.with_name(f".{final.name}.{os.getpid()}.{kind}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield hidden
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not is_full or isinstance(error.__cause__, OSError):  # explained already
            raise
        raise OSError(
            error.errno,
            f"no space left on the disk while writing {final}: nothing was kept of it; free "
            "some space or choose another folder",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
