"""The clients of one address: boto3's, and pyarrow's file system with the same credentials.

Neither survives a fork, so whoever keeps a connection keeps it by process (s3.py).
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError
from pyarrow import fs as arrow_fs

from warehouse.errors import StoreError
from warehouse.store.s3_address import S3Address
from warehouse.store.s3_errors import store_error

THREADS = 16
# Seconds; attempts count the first one. Between them botocore waits longer each time.
PATIENCE = {"connect_timeout": 10, "read_timeout": 60}
_ATTEMPTS = 6
# The AWS library behind pyarrow is set up once a process and hangs in a fork of it.
_arrow_began_in: list[int] = []


@functools.cache
def _session(profile: str | None, region: str | None) -> boto3.session.Session:
    """Shared, since it reads megabytes of descriptions of services once."""
    return boto3.session.Session(profile_name=profile, region_name=region)


class S3Connection:
    """What talks to the bucket of one address. Raises StoreError for a profile that is not there.

    `client` is boto3's and may be used from many threads.
    """

    def __init__(self, at: S3Address) -> None:
        self._at = at
        try:
            self._session = _session(at.profile, at.region)
            self.client: Any = self._new_client("path" if at.endpoint_url else "auto")
            if not at.endpoint_url and not self._is_aws:  # the chain names a server of one's own
                self.client = self._new_client("path")
        except (BotoCoreError, ValueError) as error:
            raise store_error(at, "", error) from error
        self._arrow: tuple[object, arrow_fs.FileSystem] | None = None

    @property
    def _is_aws(self) -> bool:
        host = urlsplit(self.client.meta.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def _new_client(self, addressing_style: str) -> Any:
        """With `path`, the bucket stands in the path: bucket.host need not resolve."""
        return self._session.client(
            "s3",
            endpoint_url=self._at.endpoint_url,
            config=Config(
                **PATIENCE,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                max_pool_connections=THREADS,
                # Servers that speak S3 know SHA-256; not all know boto3's default, CRC.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": addressing_style},
            ),
        )

    def arrow(self) -> arrow_fs.FileSystem:
        """The server as pyarrow sees it; made anew when the credentials have been renewed."""
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        keys = found.get_frozen_credentials()
        if self._arrow is None or self._arrow[0] != keys:
            self._arrow = (keys, self._new_arrow(keys))
        return self._arrow[1]

    def _new_arrow(self, keys: Any) -> arrow_fs.FileSystem:
        if _arrow_began_in and _arrow_began_in[0] != os.getpid():
            raise StoreError(
                f"{self._at}: this process was forked from one that had read S3, where the AWS "
                "library hangs; start processes by spawn or forkserver"
            )
        _arrow_began_in[:] = [os.getpid()]
        scheme, _, host = self.client.meta.endpoint_url.partition("://")
        return arrow_fs.S3FileSystem(
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.token,
            region=self._region(),
            scheme=scheme,
            endpoint_override=None if self._is_aws else host,
            retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    def _region(self) -> str:
        """A bucket's region, to which boto3 follows by itself; pyarrow has to be told."""
        if self._is_aws and self._at.region is None:
            answer = self.client.head_bucket(Bucket=self._at.bucket)
            return str(answer.get("BucketRegion") or self.client.meta.region_name)
        return str(self.client.meta.region_name)


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
