"""Published files read whole and written anew: what forget and compact share.

Reading is by evidence (sha256 against the ledger), so that damage is never copied into a file whose
own sha256 is right. Not here: which rows stay (forgetting.py), which files become one
(compaction.py).
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import LiveFile
from warehouse.disk_full import IN_TEMPORARY, naming_full_disk
from warehouse.publish import write_parquet
from warehouse.schemas import SCHEMA_VERSION, conform
from warehouse.store import Store
from warehouse.verification import read_verified


def read_rows(store: Store, file: LiveFile) -> pa.Table:
    """All rows of `file` in the schema of today. Raises CorruptFile naming it."""
    source = pa.BufferReader(read_verified(store, file))
    return conform(file.table, pq.ParquetFile(source).read())


def write_rows(store: Store, table: str, round: int | None, rows: pa.Table) -> LiveFile:
    """Puts conforming, sorted rows as one new file; it is an orphan until somebody commits it."""
    folder = table if round is None else f"{table}/round={round}"
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as place:
        path = Path(place) / f"{uuid.uuid4().hex}.parquet"
        with naming_full_disk(
            path.parent, f"table {table} before compression", rows.nbytes, IN_TEMPORARY
        ):
            write_parquet(table, rows, path)
        with path.open("rb") as data:
            sha256 = hashlib.file_digest(data, "sha256").hexdigest()
        file = LiveFile(
            table=table,
            round=round,
            path=f"{folder}/{path.name}",
            rows=rows.num_rows,
            bytes=path.stat().st_size,
            sha256=sha256,
            schema_version=SCHEMA_VERSION,
        )
        store.put_file(file.path, path)
    return file
