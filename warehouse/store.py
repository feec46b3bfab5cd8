"""Where the warehouse keeps its bytes: one primitive, create-if-absent, on a folder.

Everything that must be atomic (a data file, a commit) is one `put`: it either creates a key whole
or raises AlreadyExists; nothing is ever overwritten. On a folder that is `os.link`, which fails
when the target is there and never shows half a file (`os.rename` would overwrite in silence).
Accepted: a kill inside `put` leaves a `.put-*` temporary file, which no reader looks at.
Not here: what the keys mean (ledger.py), and S3, which joins behind `open_store`.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

_TEMPORARY = ".put-"


class WarehouseError(Exception):
    """Base of every error the warehouse raises about its contents or its place."""


class StoreError(WarehouseError):
    """The store cannot do what was asked; the message names the place or the key."""


class AlreadyExists(StoreError):
    """The key is taken; a store never overwrites."""


class MissingObject(StoreError):
    """No object under this key."""


class Store(Protocol):
    """Immutable objects under `/`-separated keys relative to `root`."""

    root: str

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists."""

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""


class FolderStore:
    """A store on a local folder, which must support hard links.

    A writing store creates the folder and probes it once; `read_only` touches nothing and wants the
    folder to exist. Raises StoreError when the place is unfit.
    """

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        self.root = str(root)
        self._folder = Path(root)
        if read_only:
            if not self._folder.is_dir():
                raise StoreError(f"{root}: no such folder; is this the path of a warehouse?")
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{root}: cannot be a warehouse folder: {error.strerror}") from error
        self._probe_links()

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""
        self._create(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists."""

        def copy(target: BinaryIO) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)

        self._create(key, copy)

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted; temporary files of `put` are no keys."""
        folder = self._folder / prefix.rpartition("/")[0]
        keys = (
            path.relative_to(self._folder).as_posix()
            for path in folder.rglob("*")
            if not path.name.startswith(_TEMPORARY) and path.is_file()
        )
        return sorted(key for key in keys if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key)
        if not key or parts.is_absolute() or ".." in parts.parts:
            raise StoreError(f"{key!r} is no key: it must be a relative path inside the warehouse")
        return self._folder / parts

    def _create(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        self._make_folder(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # mkstemp gives 0600; what is published is for whoever may read the folder.
                os.fchmod(descriptor, 0o644)
                write(file)
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)
            _sync_folder(path.parent)
        except FileExistsError:
            raise AlreadyExists(f"{self.root}: {key} is there already") from None
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        # Without this a power cut may forget the new folder together with the file in it.
        _sync_folder(folder.parent)

    def _probe_links(self) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
        os.close(descriptor)
        linked = Path(f"{name}-link")
        try:
            os.link(name, linked)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, str(error))
            raise StoreError(
                f"{self.root}: this mount has no hard links ({reason}), so a commit could not be "
                "atomic; put the warehouse on a local disk"
            ) from error
        finally:
            linked.unlink(missing_ok=True)
            Path(name).unlink()


def open_store(root: str | Path, *, read_only: bool = False) -> Store:
    """The store at `root`, a local folder (created unless `read_only`). Raises StoreError."""
    if str(root).startswith("s3://"):
        raise StoreError(
            f"{root}: a warehouse on S3 comes with a later version; use a local folder for now"
        )
    return FolderStore(root, read_only=read_only)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
