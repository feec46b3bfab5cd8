"""Where the warehouse keeps its bytes: a folder or S3, behind one protocol (base.py)."""

from __future__ import annotations

from pathlib import Path

from warehouse.store.base import Store


def open_store(root: str | Path, *, read_only: bool = False) -> Store:
    """The store at `root`: a local folder (created unless `read_only`), or `s3://bucket/prefix`.

    Raises StoreError.
    """
    if str(root).startswith("s3:"):  # a Path makes s3:/ of it, which is no folder
        from warehouse.store.s3 import open_s3_store

        return open_s3_store(str(root), read_only=read_only)
    from warehouse.store.folder import FolderStore

    return FolderStore(root, read_only=read_only)
