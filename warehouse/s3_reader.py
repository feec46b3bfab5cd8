"""An object of S3 as a file that Parquet readers can read in pieces. Not here: the requests."""

from __future__ import annotations

import io
from collections.abc import Callable


class RangeReader(io.RawIOBase):
    """`key`, `size` bytes long, as a file; every read is one call `read(key, start, stop)`."""

    def __init__(self, read: Callable[[str, int, int], bytes], key: str, size: int) -> None:
        super().__init__()
        self._read, self._key, self._size, self._place = read, key, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place of the next read, in bytes from the start."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves there; a place beyond the end reads as empty."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, all of the rest by default; fewer only at the end."""
        stop = self._size if size is None or size < 0 else min(self._place + size, self._size)
        if stop <= self._place:
            return b""
        data = self._read(self._key, self._place, stop)
        self._place = stop
        return data
