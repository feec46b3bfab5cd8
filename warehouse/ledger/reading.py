"""Reading the files of a version: a table as a DuckDB view, or as Arrow.

The files are those that the ledger lists, never what a glob finds. DuckDB reads a folder itself; on
S3 it reads through a pyarrow data set, whose fragments carry the size that the ledger knows, so a
query costs no listing and no HEAD. (DuckDB 2.0 over an fsspec file system read wrong bytes.)
DuckDB ignores page checksums; `read_table`, which training uses, checks them.
Not here: which views there are (catalog/catalog.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import CorruptFile, MissingFile, WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.evidence import naming, read_verified
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store
from warehouse.store.base import Store


class Wanted(TypedDict, total=False):
    """Which rows of a table. `keys`: the work of these ledger keys alone (Ledger.files_of).

    `verified`: every file is read whole, once, and its sha256 held against the ledger's before
    anything is decoded.
    """

    rounds: Sequence[int] | None
    columns: Sequence[str] | None
    as_of: int | None
    keys: Sequence[str] | None
    verified: bool


def read_table(root: str | Path, table: str, **wanted: Unpack[Wanted]) -> pa.Table:
    """The live rows of `table` with page checksums verified, columns in schema order.

    Raises CorruptFile naming a damaged or missing file, WarehouseError for an unknown table, column
    or key.
    """
    store = open_store(root, read_only=True)
    return read_live(store, Ledger(store), table, **wanted)


def read_live(store: Store, ledger: Ledger, table: str, **wanted: Unpack[Wanted]) -> pa.Table:
    """The same for who has opened the warehouse already."""
    columns, keys = wanted.get("columns"), wanted.get("keys")
    which = (wanted.get("as_of"), table, wanted.get("rounds"))
    is_verified = wanted.get("verified", False)
    if table not in TABLES:
        raise WarehouseError(f"no table {table}; there are: {', '.join(TABLES)}")
    schema = TABLES[table].schema
    unknown = sorted(set(columns or ()) - set(schema.names))
    if unknown:
        raise WarehouseError(f"table {table} has no columns {unknown}")
    if columns is not None:
        schema = pa.schema([field for field in schema if field.name in columns])
    while True:
        files = ledger.files(*which) if keys is None else ledger.files_of(keys, *which)
        try:
            parts = [_read_file(store, file, schema, is_verified) for file in files]
            # An empty table is made of arrays, for which pyarrow imports pandas: half a second.
            return pa.concat_tables(parts) if parts else schema.empty_table()
        except MissingFile as error:
            if not ledger.is_dead(error.path):  # or else a forget has written it anew meanwhile
                raise


def _read_file(store: Store, file: LiveFile, schema: pa.Schema, verified: bool) -> pa.Table:
    with naming(store, file):
        if verified:
            source = pa.BufferReader(read_verified(store, file))
        else:
            source = store.open(file.path, file.bytes)
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        rows = parquet.read(columns=present)
    if rows.num_rows != file.rows:
        place = f"{store.root}/{file.path}"
        raise CorruptFile(f"{place}: {rows.num_rows} rows, the ledger has {file.rows}")
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in present
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
