"""A store on S3, or on a server that speaks it: objects made by conditional PUT.

`put` sends `If-None-Match: *`, which the server refuses (412) where the key is there (AWS,
"Conditional writes"), with a SHA-256 that the server checks. Each put marks its object with a token
of its own, for the one case in which a 412 lies: an attempt that reached the server and whose
answer was lost, so that the client's retry meets its own object. boto3 writes, because pyarrow has
no conditional put; pyarrow reads tables. Not here: what an address is (s3_address.py), large files
(s3_upload.py), what an error means (s3_errors.py).
"""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs as arrow_fs

from warehouse.errors import AlreadyExists, MissingObject, StoreError
from warehouse.store import s3_upload
from warehouse.store.base import Entry
from warehouse.store.local_cache import ObjectCache, local_folder
from warehouse.store.s3_address import S3Address, parse_address
from warehouse.store.s3_client import THREADS, RangeReader, S3Connection
from warehouse.store.s3_errors import CONFLICT, TAKEN, code, is_unclear, store_error

_Answer = TypeVar("_Answer")
_ERRORS = (ClientError, BotoCoreError, Boto3Error)
_ATTEMPTS = 6  # of what botocore does not try again by itself
_PROBE = "_probe/conditional-put"
# Immutable, small, and read whole by every command: worth a copy on this machine.
_CACHED = "_ledger/"


class S3Store:
    """Immutable objects under one prefix of a bucket (see warehouse.store.Store)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._at: S3Address = parse_address(root)
        self._connection = S3Connection(self._at)
        self._cache = ObjectCache(local_folder(root) / "_cache" / "objects")
        self._etags: dict[str, str] = {}
        self._is_begun = self._is_probed = False
        self._probing = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""
        self._create(key, s3_upload.whole(data))

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists."""
        self._create(key, s3_upload.of_file(path))

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""
        etag = self._etags.get(key)
        kept = self._cache.find(key, etag) if etag else None
        if kept is not None:
            return kept

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(
                Bucket=self._at.bucket, Key=self._key(key), ChecksumMode="ENABLED"
            )
            return answer["Body"].read(), answer["ETag"]

        data, etag = self._try(key, read)
        if key.startswith(_CACHED):
            self._cache.keep(key, etag, data)
        return data

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes under each key, in their order. Raises MissingObject naming the first."""
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self.get, keys))

    def get_file(self, key: str, path: Path) -> None:
        """Writes the bytes under `key` to the local file `path`. Raises MissingObject."""
        place = (self._at.bucket, self._key(key), str(path))
        extra = {"ChecksumMode": "ENABLED"}
        self._try(key, lambda: self._client.download_file(*place, ExtraArgs=extra))

    def open(self, key: str, size: int | None = None) -> pa.NativeFile:
        """`key` for reading at any place; a known `size` in bytes spares a request.

        Raises MissingObject, at the latest on the first read.
        """
        # Not pyarrow's file system, which asks for the size that we know (a HEAD for each file).
        if size is None:
            size = self._try(key, lambda: self._head(key)["ContentLength"])
        return pa.PythonFile(RangeReader(self._range, key, size), mode="r")

    def entries(self, prefix: str) -> list[Entry]:
        """What lies under `prefix` with size and age, sorted; a killed put leaves nothing here."""
        skip = len(self._at.prefix)

        def read() -> list[dict[str, Any]]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._at.bucket, Prefix=self._at.prefix + prefix
            )
            return [item for page in pages for item in page.get("Contents", ())]

        found = self._try(prefix, read)
        if _CACHED.startswith(prefix) or prefix.startswith(_CACHED):
            self._etags = {
                item["Key"][skip:]: item["ETag"]
                for item in found
                if item["Key"][skip:].startswith(_CACHED)
            }
        entries = (Entry(item["Key"][skip:], item["Size"], item["LastModified"]) for item in found)
        return sorted(
            (entry for entry in entries if entry.key != _PROBE), key=lambda entry: entry.key
        )

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._metadata(key) is not None

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""
        if not self.exists(key):  # S3 itself would not say
            raise MissingObject(f"{self._at}: no object {key}")
        self._try(
            key, lambda: self._client.delete_object(Bucket=self._at.bucket, Key=self._key(key))
        )
        self._etags.pop(key, None)

    def local_path(self, key: str) -> None:
        """None: what lies on S3 has to be fetched."""

    def arrow_files(self) -> tuple[arrow_fs.FileSystem, str]:
        """A pyarrow file system of this process, and the bucket with the prefix."""
        base = f"{self._at.bucket}/{self._at.prefix}".rstrip("/")
        return self._try("", self._connection.arrow), base

    def refuse_empty(self) -> None:
        """Raises StoreError where no warehouse has been begun yet."""
        if self._is_begun:
            return
        # One request for both _ledger/ and _probe/.
        found = self._try(
            "",
            lambda: self._client.list_objects_v2(
                Bucket=self._at.bucket, Prefix=f"{self._at.prefix}_", MaxKeys=1
            ),
        )
        if not found.get("KeyCount", len(found.get("Contents", ()))):
            raise StoreError(f"{self._at}: no ledger there; is this the address of a warehouse?")
        self._is_begun = True

    def probe(self) -> None:
        """Raises StoreError for a server that ignores If-None-Match: it would overwrite commits.

        Asks once a process. The object that it leaves marks the place as a warehouse.
        """
        with self._probing:
            if self._is_probed:
                return
            data = s3_upload.whole(b"A second conditional PUT of this object must be refused.\n")
            if self._put_once(_PROBE, data) and self._put_once(_PROBE, data):
                raise StoreError(
                    f"{self._at}: this server ignores If-None-Match, so a commit could overwrite "
                    "another; use one with conditional writes (AWS, R2, recent MinIO or "
                    "Ceph), or a local folder"
                )
            self._is_begun = self._is_probed = True

    @property
    def _client(self) -> Any:
        return self._connection.client

    def _key(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r} is no key: it must be a relative path inside the warehouse")
        return self._at.prefix + key

    def _create(self, key: str, upload: s3_upload.Upload) -> None:
        self.probe()  # also for who has opened it to read
        if not self._put_once(key, upload):
            raise AlreadyExists(f"{self._at}: {key} is there already")

    def _put_once(self, key: str, upload: s3_upload.Upload) -> bool:
        """Whether this call made the object; False: another did. Raises StoreError."""
        token = os.urandom(16).hex()
        for attempt in range(_ATTEMPTS):
            try:
                upload(self._client, self._at.bucket, self._key(key), token)
            except _ERRORS as error:
                if code(error) in CONFLICT:
                    # Another write of this key is under way, or one is being deleted.
                    time.sleep(random.random() * 0.05 * 2**attempt)
                    continue
                if code(error) not in TAKEN and not is_unclear(error):
                    raise store_error(self._at, key, error) from error
                found = self._metadata(key)
                if found is not None:
                    return found.get(s3_upload.TOKEN) == token
                if code(error) in TAKEN:  # and gone since: try again
                    continue
                raise store_error(self._at, key, error) from error
            return True
        raise StoreError(
            f"{self._at}/{key}: the server answers with a conflict, {_ATTEMPTS} times; "
            "is another process writing this key? The same command goes on"
        )

    def _head(self, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.head_object(
            Bucket=self._at.bucket, Key=self._key(key)
        )
        return answer

    def _range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` - 1 of `key`."""

        def read() -> bytes:
            answer = self._client.get_object(
                Bucket=self._at.bucket, Key=self._key(key), Range=f"bytes={start}-{stop - 1}"
            )
            data: bytes = answer["Body"].read()
            return data

        return self._try(key, read)

    def _metadata(self, key: str) -> dict[str, str] | None:
        """What was stored beside the object, or None where there is none."""
        try:
            metadata: dict[str, str] = self._try(key, lambda: self._head(key)["Metadata"])
        except MissingObject:
            return None
        return metadata

    def _try(self, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """`ask()`, again where the body of an answer broke off: botocore retries only the rest."""
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except _ERRORS as error:
                broke_off = isinstance(error, s3_upload.BROKEN_BODY)
                if not broke_off or attempt == _ATTEMPTS - 1:
                    raise store_error(self._at, key, error) from error
        raise AssertionError("unreachable")


def open_s3_store(root: str, *, read_only: bool = False) -> S3Store:
    """The store at `root`, one for each process.

    Raises StoreError where there is nothing to read, or where the server is unfit for writing.
    """
    store = _store_of_process(root, os.getpid())
    if read_only:
        store.refuse_empty()
    else:
        store.probe()
    return store


@functools.cache
def _store_of_process(root: str, _process: int) -> S3Store:
    return S3Store(root)
