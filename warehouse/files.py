"""A file or folder appears whole or not at all; digests of files, texts and JSON-able values.

The pattern stands here once for all rooms: write under a hidden name beside the target, then
rename. A kill leaves the old target or the new one, and at most a hidden name that nobody reads.
Not here: what several machines write to a store (store/), checks of a store's files (ledger/).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of(value: object) -> str:
    """Hex digest of a JSON-able value, independent of key order."""
    return text_sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str))


def text_sha256(text: str) -> str:
    """Hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step, so that a reader sees the old text or the new, never half."""
    with whole_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A name to write under, in the same folder; renamed to `path` if nothing goes wrong.

    The folder is made where it is missing. An error leaves `path` as it was. Without `replace` what
    lies at `path` stands and FileExistsError is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield fresh
        if not replace and path.exists():
            raise FileExistsError(f"{path} is there already")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill beside `path`; renamed to `path` if nothing goes wrong.

    With `replace` what lies at `path` goes first, otherwise it stands and FileExistsError is
    raised. What killed makers of the same folder left beside it is the maker's to sweep
    (`leftovers`): another maker may be at work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with work_folder(path) as fresh:
        yield fresh
        if path.exists():
            if not replace:
                raise FileExistsError(f"{path} is there already")
            shutil.rmtree(path)
        fresh.rename(path)


@contextmanager
def work_folder(near: Path) -> Iterator[Path]:
    """A hidden folder beside `near`, on the same disk, so that a last step can be a rename."""
    made = near.with_name(f".{near.name}.{uuid.uuid4().hex}")
    made.mkdir()  # not mkdtemp: its 0700 would go with the rename
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def leftovers(path: Path) -> list[Path]:
    """Hidden names beside `path` that killed makers of it left, or that living ones fill."""
    return sorted(path.parent.glob(f".{path.name}.*"))
