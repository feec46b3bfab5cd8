"""A full disk, said so that a reader knows which place, how much was wanted and what to do.

The operating system says "No space left on device" and names neither. Not here: S3's quotas
(s3_errors.py).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from warehouse.errors import StoreError

# A quota of the user and a limit on file sizes end a write as a full disk does.
_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is full by its quota", errno.EFBIG: "takes no "
         "file of this size"}  # fmt: skip
IN_WAREHOUSE = (
    "nothing was committed and what was published before stays readable. Free space there "
    "(`roundhouse vacuum` sweeps what interrupted runs left) and run the same command again: "
    "finished work is kept"
)
IN_TEMPORARY = (
    "nothing was committed. Free space there or name another folder by TMPDIR, and run the same "
    "command again: finished work is kept"
)


class DiskFull(StoreError):
    """A place has no room for what was to be written; the message names both and the remedy."""


@contextlib.contextmanager
def naming_full_disk(place: Path, what: str, needed: int | None, remedy: str) -> Iterator[None]:
    """Turns the OSError of a full disk under `place` into DiskFull; any other passes.

    `what` was being written, `needed` bytes as far as is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        size = "" if needed is None else f" ({readable_bytes(needed)})"
        raise DiskFull(
            f"{place}: the disk {_FULL[error.errno]}: {what}{size} does not fit, "
            f"{_free(place)}; {remedy}"
        ) from error


def readable_bytes(count: int) -> str:
    """`1.5 MB`: powers of 1000, one decimal above bytes."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _free(place: Path) -> str:
    try:
        return f"{readable_bytes(shutil.disk_usage(place).free)} are free"
    except OSError:
        return "how much is free cannot be told"
