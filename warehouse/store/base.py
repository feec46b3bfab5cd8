"""Where the warehouse keeps its bytes: one primitive, create-if-absent, on a folder or on S3.

Everything that must be atomic (a data file, a commit) is one `put`: it either creates a key whole
or raises AlreadyExists; nothing is ever overwritten. On a folder that is a hard link
(folder.py), on S3 a conditional PUT (s3.py); whoever holds a Store need not know which.
Not here: what the keys mean (ledger/ledger.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem


@dataclass(frozen=True)
class Entry:
    """One object of a store: its size in bytes and when it was written, in UTC."""

    key: str
    bytes: int
    modified: datetime


class Store(Protocol):
    """Immutable objects under `/`-separated keys relative to `root`."""

    root: str

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists."""

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes under each key, in their order. Raises MissingObject naming the first."""

    def get_file(self, key: str, path: Path) -> None:
        """Writes the bytes under `key` to the local file `path`. Raises MissingObject."""

    def open(self, key: str, size: int | None = None) -> pa.NativeFile:
        """`key` for reading at any place; a known `size` in bytes spares a request on S3.

        Raises MissingObject, at the latest on the first read.
        """

    def entries(self, prefix: str) -> list[Entry]:
        """What lies under `prefix` with size and age, sorted; also what a killed put left."""

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""

    def local_path(self, key: str) -> Path | None:
        """Where this machine finds `key` as a file; None when it has to be fetched."""

    def arrow_files(self) -> tuple[FileSystem, str]:
        """A pyarrow file system, and the path in it that `root` is."""
