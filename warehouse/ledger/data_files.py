"""Data files: rows of a table as Parquet, encoded as measured, cut at about 256 MB.

A file holds one table and one round (NULL is a round of its own). Only a table whose rows make more
than MAX_BYTES becomes several files, cut between row groups, so they stay sorted one after another.
Not here: which rows may be written (publish.py), reading (handle.py).
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.files import file_sha256
from warehouse.ledger.commits import LiveFile
from warehouse.schemas import SCHEMA_VERSION, TABLES
from warehouse.store.base import Store
from warehouse.store.disk_full import IN_TEMPORARY, IN_WAREHOUSE, naming_full_disk

MAX_BYTES = 256 << 20
_PLAIN = re.compile(r"[a-z]+")


def put_rows(
    store: Store,
    name: str,
    rows: pa.Table,
    *,
    max_bytes: int = MAX_BYTES,
    when: Callable[[], None] | None = None,
) -> list[LiveFile]:
    """Writes conforming, sorted rows of table `name` into `store`; the files are not live yet.

    No rows make no file. A file ends before it would pass `max_bytes`, but has one row group.
    `when` returns when files may be put, or raises; it is asked once a file is written.
    """
    put = []
    for number, part in _by_round(name, rows):
        first = 0
        while first < part.num_rows:
            with _local_file(store) as path:
                with _naming_full_disk(store, name, part.slice(first), path):
                    count = _write_up_to(max_bytes, name, part.slice(first), path)
                file = _describe(name, number, part.slice(first, count), path)
                if when is not None:
                    when()
                store.put_file(file.path, path)
            put.append(file)
            first += count
    return put


def put_like(store: Store, file: LiveFile, rows: pa.Table) -> LiveFile:
    """Writes sorted rows with the columns of `file` as one file that may take its place.

    It keeps the schema version too, so that nothing is added to what an older version wrote.
    """
    with _local_file(store) as path:
        with (
            _naming_full_disk(store, file.table, rows, path),
            parquet_writer(file.table, str(path), rows.schema, file.schema_version) as writer,
        ):
            writer.write_table(rows, TABLES[file.table].row_group_size)
        new = _describe(file.table, file.round, rows, path)
        new = replace(new, schema_version=file.schema_version)
        store.put_file(new.path, path)
    return new


def _write_up_to(max_bytes: int, name: str, rows: pa.Table, path: Path) -> int:
    """Writes as many row groups of `rows` as fit; returns the number of rows written."""
    size = TABLES[name].row_group_size
    written, largest, end = 0, 0, 0
    with pa.OSFile(str(path), "wb") as sink, parquet_writer(name, sink) as writer:
        while written < rows.num_rows and (written == 0 or end + largest <= max_bytes):
            group = rows.slice(written, size)
            writer.write_table(group, size)
            written += group.num_rows
            largest = max(largest, sink.tell() - end)
            end = sink.tell()
    return written


def parquet_writer(
    name: str,
    where: str | pa.NativeFile,
    schema: pa.Schema | None = None,
    version: int = SCHEMA_VERSION,
) -> pq.ParquetWriter:
    """A writer of conforming rows of table `name` with the encodings measured for it.

    `schema` and `version` are those of today unless rows of an older version are written anew.
    pyarrow's own zstd default is level 1; its default dictionary bloats near-unique columns.
    """
    table = TABLES[name]
    schema = table.schema if schema is None else schema
    encodings = dict.fromkeys(table.delta, "DELTA_BYTE_ARRAY")
    for field in schema:
        if pa.types.is_float32(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif field.type == pa.list_(pa.float32()):
            encodings[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT"
    about = {"schema_version": str(version), "table": name, "grain": table.grain}
    return pq.ParquetWriter(
        where,
        schema.with_metadata(about),
        compression="zstd",
        compression_level=3,
        use_dictionary=list(table.dictionary),
        column_encoding=encodings,
        write_page_index=True,
        write_page_checksum=True,
    )


@contextmanager
def _local_file(store: Store) -> Iterator[Path]:
    """A place for a file that is put next: within a folder store, so that put need not copy it."""
    name = f".put-{uuid.uuid4().hex}.parquet"
    inside = store.local_path(name)
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as folder:
        path = inside or Path(folder) / name
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _naming_full_disk(
    store: Store, name: str, rows: pa.Table, path: Path
) -> AbstractContextManager[None]:
    remedy = IN_TEMPORARY if store.local_path(path.name) is None else IN_WAREHOUSE
    what = f"table {name} before compression"
    return naming_full_disk(path.parent, what, rows.nbytes, remedy)


def _by_round(name: str, rows: pa.Table) -> list[tuple[int | None, pa.Table]]:
    if not TABLES[name].by_round:
        return [(None, rows)]
    rounds = rows.column("round")
    numbers = rounds.unique().to_pylist()
    if len(numbers) == 1:
        return [(numbers[0], rows)]  # a filter would copy all of it
    values = [pa.array([number], rounds.type) for number in numbers]  # is_in finds NULL, too
    return [(v[0].as_py(), rows.filter(pc.is_in(rounds, value_set=v))) for v in values]


def _folder(name: str, number: int | None, rows: pa.Table) -> str:
    """Where a file of these rows belongs: `labels/round=17/purpose=train`."""
    parts = [name] if number is None else [name, f"round={number}"]
    column = TABLES[name].folder
    if column is not None and column in rows.column_names:
        values = rows.column(column).unique().to_pylist()
        if len(values) == 1 and _PLAIN.fullmatch(str(values[0])):
            parts.append(f"{column}={values[0]}")
    return "/".join(parts)


def _describe(name: str, number: int | None, rows: pa.Table, path: Path) -> LiveFile:
    return LiveFile(
        table=name,
        round=number,
        path=f"{_folder(name, number, rows)}/{uuid.uuid4().hex}.parquet",
        rows=rows.num_rows,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        schema_version=SCHEMA_VERSION,
    )
