"""The address of a warehouse on S3, read and checked without anything that speaks S3.

    s3://bucket/prefix?endpoint_url=http://127.0.0.1:9000&region=us-east-1&profile=minio

Any part of the query may be left to the AWS chain (environment, ~/.aws); credentials stand nowhere
but there, so an address may be printed, logged and stored. Not here: the store (s3.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from warehouse.errors import StoreError

_QUERY = ("endpoint_url", "region", "profile")
_SHAPE = "an address on S3 is s3://bucket/prefix?endpoint_url=...&region=...&profile=..."
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class S3Address:
    """The parts of `s3://bucket/prefix?...`; `prefix` is empty or ends with `/`."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def is_remote(root: str) -> bool:
    """Whether `root` names a place that is no folder of this machine."""
    return _SCHEME.match(root) is not None


def display_name(root: str) -> str:
    """`root` without its query: what a page or a log calls the warehouse."""
    return root.partition("?")[0].rstrip("/") if is_remote(root) else root


def parse_address(root: str) -> S3Address:
    """The address in `root`. Raises StoreError that names what is wrong in it."""
    shown = display_name(root)
    if not root.startswith("s3://"):
        raise StoreError(f"{shown}: a warehouse lies in a local folder or on S3; {_SHAPE}")
    parts = urlsplit(root)
    if "@" in parts.netloc:
        shown = f"s3://...@{parts.netloc.rpartition('@')[2]}"
        raise StoreError(_no_credentials(shown))
    if not _BUCKET.fullmatch(parts.netloc):
        raise StoreError(
            f"{shown}: {parts.netloc!r} is no name of a bucket (3 to 63 of a-z, 0-9, - and .); "
            f"{_SHAPE}"
        )
    if parts.fragment or "//" in parts.path or ".." in parts.path.split("/"):
        raise StoreError(f"{shown}: #, // and .. have no place in a prefix; {_SHAPE}")
    prefix = parts.path.strip("/")
    options = _options(shown, parts.query)
    return S3Address(parts.netloc, f"{prefix}/" if prefix else "", **options)


def _options(shown: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for name, value in pairs:
        if name not in _QUERY:
            # Not the value: whoever writes an access key here must not find it in a log.
            raise StoreError(
                f"{shown}: {name} is no option of a warehouse's address; there are "
                f"{', '.join(_QUERY)}. {_no_credentials('s3://')}"
            )
        if not value:
            raise StoreError(f"{shown}: {name} is empty; give it a value or leave it out")
    if len(pairs) != len(options):
        raise StoreError(f"{shown}: an option stands twice; give each once")
    endpoint = urlsplit(options.get("endpoint_url", "https://unnamed"))
    if endpoint.username or endpoint.password:
        raise StoreError(_no_credentials(f"{shown}: endpoint_url"))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise StoreError(
            f"{shown}: endpoint_url must be http://host:port or https://host[:port], it is "
            f"{options['endpoint_url']}"
        )
    return options


def _no_credentials(where: str) -> str:
    return (
        f"{where}: credentials do not belong into an address; give them to the AWS chain "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile= of ~/.aws)"
    )
