"""A store on S3, or on a server that speaks it: objects made by conditional PUT.

`put` is `put_object` with `If-None-Match: *`, which the server refuses (412) where the key is there
(AWS, "Conditional writes"), with a SHA-256 that the server checks. boto3 writes, because pyarrow
has no conditional put; pyarrow reads. An address is

    s3://bucket/prefix?endpoint_url=http://127.0.0.1:9000&region=us-east-1&profile=minio

with any part of the query left to the AWS chain (environment, ~/.aws); credentials stand nowhere
but there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import pyarrow as pa
from botocore.config import Config
from botocore.exceptions import ClientError
from pyarrow import fs as arrow_fs

from warehouse.store import AlreadyExists, Entry, MissingObject, StoreError

_THREADS = 16
_QUERY = ("endpoint_url", "region", "profile")
_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}


@dataclass(frozen=True)
class S3Address:
    """The parts of `s3://bucket/prefix?...`; `prefix` is empty or ends with `/`."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None


def parse_address(root: str) -> S3Address:
    """The address in `root`. Raises StoreError that names what is wrong in it."""
    parts = urlsplit(root)
    if parts.username or parts.password:
        raise StoreError(
            f"s3://{parts.hostname}: credentials do not belong into the address of a warehouse; "
            "give them to the AWS chain (AWS_ACCESS_KEY_ID or a profile)"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(_QUERY))
    if unknown:
        raise StoreError(
            f"s3://{parts.netloc}{parts.path}: {unknown[0]} is no option of a warehouse's address; "
            f"there are {', '.join(_QUERY)}; credentials come from the AWS chain"
        )
    if not parts.netloc:
        raise StoreError(f"{root}: an address on S3 is s3://bucket/prefix")
    prefix = parts.path.strip("/")
    return S3Address(parts.netloc, f"{prefix}/" if prefix else "", **options)


class S3Store:
    """Immutable objects under one prefix of a bucket (see warehouse.store.Store)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._at = parse_address(root)
        session = boto3.session.Session(profile_name=self._at.profile, region_name=self._at.region)
        self._client: Any = session.client(
            "s3",
            endpoint_url=self._at.endpoint_url,
            config=Config(
                retries={"mode": "standard", "max_attempts": 5},
                max_pool_connections=_THREADS,
                # Servers that speak S3 know SHA-256; not all know boto3's newer default, CRC.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._session = session

    def put(self, key: str, data: bytes) -> None:
        """Creates `key` with `data`, whole or not at all. Raises AlreadyExists."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        try:
            self._client.put_object(
                Bucket=self._at.bucket,
                Key=self._key(key),
                Body=data,
                IfNoneMatch="*",
                ChecksumSHA256=checksum,
            )
        except ClientError as error:
            if _code(error) in _TAKEN:
                raise AlreadyExists(f"{self.root}: {key} is there already") from None
            raise self._failed(key, error) from error

    def put_file(self, key: str, path: Path) -> None:
        """Creates `key` with the bytes of the local file `path`. Raises AlreadyExists."""
        self.put(key, path.read_bytes())

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises MissingObject."""
        try:
            answer = self._client.get_object(Bucket=self._at.bucket, Key=self._key(key))
            data: bytes = answer["Body"].read()
        except ClientError as error:
            raise self._failed(key, error) from error
        return data

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes under each key, in their order. Raises MissingObject naming the first."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self.get, keys))

    def get_file(self, key: str, path: Path) -> None:
        """Writes the bytes under `key` to the local file `path`. Raises MissingObject."""
        path.write_bytes(self.get(key))

    def open(self, key: str, size: int | None = None) -> pa.NativeFile:
        """`key` for reading at any place; a known `size` in bytes spares a request.

        Raises MissingObject, at the latest on the first read.
        """
        files, base = self.arrow_files()
        place = f"{base}/{key}"
        try:
            if size is None:
                return files.open_input_file(place)
            return files.open_input_file(
                arrow_fs.FileInfo(place, type=arrow_fs.FileType.File, size=size)
            )
        except FileNotFoundError:
            raise MissingObject(f"{self.root}: no object {key}") from None

    def entries(self, prefix: str) -> list[Entry]:
        """What lies under `prefix` with size and age, sorted; a killed put leaves nothing here."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._at.bucket, Prefix=self._at.prefix + prefix
        )
        skip = len(self._at.prefix)
        try:
            found = [
                Entry(item["Key"][skip:], item["Size"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", ())
            ]
        except ClientError as error:
            raise self._failed(prefix, error) from error
        return sorted(found, key=lambda entry: entry.key)

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        try:
            self._client.head_object(Bucket=self._at.bucket, Key=self._key(key))
        except ClientError as error:
            if _code(error) in _MISSING:
                return False
            raise self._failed(key, error) from error
        return True

    def delete(self, key: str) -> None:
        """Removes `key`. Raises MissingObject."""
        if not self.exists(key):  # S3 itself would not say
            raise MissingObject(f"{self.root}: no object {key}")
        try:
            self._client.delete_object(Bucket=self._at.bucket, Key=self._key(key))
        except ClientError as error:
            raise self._failed(key, error) from error

    def local_path(self, key: str) -> None:
        """None: what lies on S3 has to be fetched."""

    def arrow_files(self) -> tuple[arrow_fs.FileSystem, str]:
        """A pyarrow file system of this process, and the bucket with the prefix."""
        base = f"{self._at.bucket}/{self._at.prefix}".rstrip("/")
        return self._arrow(), base

    @functools.cache  # noqa: B019 (one store a process)
    def _arrow(self) -> arrow_fs.FileSystem:
        found = self._session.get_credentials()
        known = found.get_frozen_credentials() if found else None
        url = self._client.meta.endpoint_url
        return arrow_fs.S3FileSystem(
            access_key=known.access_key if known else None,
            secret_key=known.secret_key if known else None,
            session_token=known.token if known else None,
            region=self._client.meta.region_name,
            endpoint_override=url.partition("://")[2],
            scheme=url.partition("://")[0],
        )

    def _key(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r} is no key: it must be a relative path inside the warehouse")
        return self._at.prefix + key

    def _failed(self, key: str, error: ClientError) -> StoreError:
        if _code(error) in _MISSING:
            return MissingObject(f"{self.root}: no object {key}")
        return StoreError(f"{self.root}: {key}: {error}")


def open_s3_store(root: str, *, read_only: bool = False) -> S3Store:
    """The store at `root`, one for each process. Raises StoreError where nothing is to be read."""
    store = _store_of_process(root, os.getpid())
    if read_only and not store.list("_ledger/"):
        raise StoreError(f"{root}: no ledger there; is this the address of a warehouse?")
    return store


@functools.cache
def _store_of_process(root: str, _process: int) -> S3Store:
    return S3Store(root)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
