"""What stays on this machine: the user's cache, a remote warehouse's folder in it, known objects.

Everything here may be deleted at any time; it is found again or fetched again. Not here: staging
and policies, which lie in the same folder (pipeline).
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from warehouse.files import text_sha256, whole_file
from warehouse.store.s3_address import is_remote, parse_address


def user_cache() -> Path:
    """The folder for what no warehouse holds: `ROUNDHOUSE_CACHE`, or one under the user's home."""
    return Path(os.environ.get("ROUNDHOUSE_CACHE") or Path.home() / ".cache" / "roundhouse")


def local_folder(root: str) -> Path:
    """Where a warehouse keeps what stays on this machine: itself, or for a remote one the cache.

    Region and profile do not count, they say how a place is reached. Raises StoreError for an
    address that is none.
    """
    if not is_remote(root):
        return Path(root)
    at = parse_address(root)
    place = f"{at}?endpoint_url={at.endpoint_url or ''}"
    return user_cache() / text_sha256(place)[:16]


class ObjectCache:
    """Small immutable objects of a remote store, each under its key and the server's ETag.

    The ETag comes from a fresh listing, so what was cached of a bucket that has been emptied and
    filled anew is never found. A file carries its own SHA-256: a damaged one counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str, etag: str) -> bytes | None:
        """The bytes kept for `key` at this ETag, or None."""
        try:
            kept = self._path(key, etag).read_bytes()
        except OSError:
            return None
        digest, data = kept[:32], kept[32:]
        return data if hashlib.sha256(data).digest() == digest else None

    def keep(self, key: str, etag: str, data: bytes) -> None:
        """Keeps `data`; a folder that cannot be written is no failure, only slower."""
        path = self._path(key, etag)
        with suppress(OSError), whole_file(path) as fresh:
            fresh.write_bytes(hashlib.sha256(data).digest() + data)

    def _path(self, key: str, etag: str) -> Path:
        return self._folder / f"{key}.{re.sub('[^A-Za-z0-9-]', '', etag)}"
