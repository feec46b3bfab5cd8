"""How one object gets to S3: in one PUT, or in parts where one PUT would be too long.

Both create the key whole or not at all, and only where it is not there. `upload_file` of boto3
cannot be conditional, hence the parts by hand. Not here: what a refusal means (s3.py).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

# An upload sends an object to (client, bucket, key), marked with a token.
Upload = Callable[[Any, str, str, str], None]
TOKEN = "roundhouse-put"
BROKEN_BODY = (
    IncompleteReadError,
    ResponseStreamingError,
    ReadTimeoutError,
    FlexibleChecksumError,
)
_ONE_PUT = 256 << 20  # bytes; S3 takes 5 GB, but a broken connection would begin anew
_PART = 64 << 20
_MOST_PARTS = 10_000  # S3's limit
_PARTS_AT_ONCE = 4  # each holds one part in memory


def whole(data: bytes) -> Upload:
    """Sends `data`."""
    checksum = _base64(hashlib.sha256(data).digest())

    def upload(client: Any, bucket: str, key: str, token: str) -> None:
        _put(client, bucket, key, token, data, checksum)

    return upload


def of_file(path: Path) -> Upload:
    """Sends the bytes of the local file `path`, which must not change meanwhile."""
    if path.stat().st_size > _ONE_PUT:
        return _in_parts(path)
    with path.open("rb") as file:
        checksum = _base64(hashlib.file_digest(file, "sha256").digest())

    def upload(client: Any, bucket: str, key: str, token: str) -> None:
        with path.open("rb") as body:
            _put(client, bucket, key, token, body, checksum)

    return upload


def _put(client: Any, bucket: str, key: str, token: str, body: Any, checksum: str) -> None:
    client.put_object(
        Bucket=bucket,
        Key=key,
        Body=body,
        IfNoneMatch="*",
        ChecksumAlgorithm="SHA256",
        ChecksumSHA256=checksum,
        Metadata={TOKEN: token},
    )


def _in_parts(path: Path) -> Upload:
    size = path.stat().st_size
    part = max(_PART, -(-size // _MOST_PARTS))
    count = -(-size // part)

    def upload(client: Any, bucket: str, key: str, token: str) -> None:
        begun = client.create_multipart_upload(
            Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256", Metadata={TOKEN: token}
        )
        where = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            with path.open("rb") as file:
                file.seek((number - 1) * part)
                data = file.read(part)
            checksum = _base64(hashlib.sha256(data).digest())
            sent = client.upload_part(
                **where, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
            return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = list(pool.map(send, range(1, count + 1)))
            client.complete_multipart_upload(
                **where, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except (ClientError, BotoCoreError, OSError):
            # Parts of an upload that never ends are paid for; where this fails too, a lifecycle
            # rule of the bucket removes them.
            with suppress(ClientError, BotoCoreError):
                client.abort_multipart_upload(**where)
            raise

    return upload


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
