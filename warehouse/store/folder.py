"""A store on a local folder, which must support hard links.

`put` writes under a temporary name and makes the key with `os.link`, which fails when the target is
there and never shows half a file (`os.rename` would overwrite in silence). A kill inside `put`
leaves a `.put-*` file, which no reader looks at and `vacuum` sweeps.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs as arrow_fs

from warehouse.errors import AlreadyExists, MissingObject, StoreError
from warehouse.store.base import Entry
from warehouse.store.disk_full import IN_WAREHOUSE, naming_full_disk

_TEMPORARY = ".put-"


class FolderStore:
    """Immutable files under one folder (see warehouse.store.Store).

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
        with naming_full_disk(self._folder, "a file of no size", None, IN_WAREHOUSE):
            self._probe_links()

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""
        self._create(key, len(data), lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists.

        A file under a temporary name of ours is linked instead of copied: nobody else writes it.
        """
        if path.parent == self._folder and path.name.startswith(_TEMPORARY):
            with naming_full_disk(self._folder, key, None, IN_WAREHOUSE):
                path.chmod(0o644)
                self._make_folder(self._path(key).parent)
                self._publish(path, key)
            return

        def copy(target: BinaryIO) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)

        self._create(key, path.stat().st_size, copy)

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes under each key, in their order. Raises MissingObject naming the first."""
        return [self.get(key) for key in keys]

    def get_file(self, key: str, path: Path) -> None:
        """Writes the bytes under `key` to the local file `path`. Raises MissingObject."""
        try:
            shutil.copyfile(self._path(key), path)
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def open(self, key: str, size: int | None = None) -> pa.NativeFile:  # noqa: ARG002 (S3 needs it)
        """`key` for reading at any place. Raises MissingObject."""
        try:
            return pa.OSFile(str(self._path(key)))
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def entries(self, prefix: str) -> list[Entry]:
        """What lies under `prefix` with size and age, sorted; also what a killed put left."""
        found = []
        for key in self._files(prefix):
            try:
                about = (self._folder / key).stat()
            except FileNotFoundError:  # a `put` beside us has just unlinked its temporary name
                continue
            if key.startswith(prefix):
                modified = datetime.fromtimestamp(about.st_mtime, UTC)
                found.append(Entry(key, about.st_size, modified))
        return sorted(found, key=lambda entry: entry.key)

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted; temporary files of `put` are no keys."""
        return sorted(
            key
            for key in self._files(prefix)
            if key.startswith(prefix) and not key.rpartition("/")[2].startswith(_TEMPORARY)
        )

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def local_path(self, key: str) -> Path:
        """The file of `key`."""
        return self._path(key)

    def arrow_files(self) -> tuple[arrow_fs.FileSystem, str]:
        """The local file system, and the folder."""
        return arrow_fs.LocalFileSystem(), str(self._folder)

    def _files(self, prefix: str) -> Iterator[str]:
        """Keys of the folder that `prefix` names, and of those below (plain text: it is hot)."""
        top = str(self._folder)
        for folder, _, names in os.walk(f"{top}/{prefix.rpartition('/')[0]}"):
            below = os.path.relpath(folder, top)
            for name in names:
                yield name if below == "." else f"{below}/{name}"

    def _path(self, key: str) -> Path:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r} is no key: it must be a relative path inside the warehouse")
        return self._folder / key

    def _create(self, key: str, size: int, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        with naming_full_disk(self._folder, key, size, IN_WAREHOUSE):
            self._make_folder(path.parent)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    # mkstemp gives 0600; what is published is for whoever may read the folder.
                    os.fchmod(descriptor, 0o644)
                    write(file)
                self._publish(temporary, key)
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, key: str) -> None:
        """The bytes of `temporary` reach the disk, then they get their name, then that does."""
        path = self._path(key)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise AlreadyExists(f"{self.root}: {key} is there already") from None
        _sync(path.parent)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        # Without this a power cut may forget the new folder together with the file in it.
        _sync(folder.parent)

    def _probe_links(self) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
        os.close(descriptor)
        linked = Path(f"{name}-link")
        try:
            os.link(name, linked)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = errno.errorcode.get(error.errno or 0, str(error))
            raise StoreError(
                f"{self.root}: this mount has no hard links ({reason}), so a commit could not be "
                "atomic; put the warehouse on a local disk"
            ) from error
        finally:
            linked.unlink(missing_ok=True)
            Path(name).unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
