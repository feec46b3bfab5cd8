"""A warehouse, opened once and handed down: where its bytes lie, its ledger, its rows.

A command or a stage process opens one at its beginning; whatever it calls reads through it. The
ledger behind it is looked at anew on every question, so commits of other processes are seen, and
only what is new is read. Rows come from the files that the ledger lists, never from a glob.
Not here: writing (publish.py), which views there are (catalog/catalog.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import CorruptFile, MissingFile, WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.evidence import naming, read_verified
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store
from warehouse.store.base import Store

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Warehouse:
    """An opened warehouse; `as_of` is the version that is read, None the newest at each look."""

    root: str
    store: Store
    ledger: Ledger
    as_of: int | None = None

    @classmethod
    def open(
        cls, root: str | Path, *, read_only: bool = False, as_of: int | None = None
    ) -> Warehouse:
        """The warehouse at `root`; a folder is created unless `read_only`. Raises StoreError."""
        store = open_store(root, read_only=read_only)
        return cls(str(root), store, Ledger(store), as_of)

    def at(self, version: int) -> Warehouse:
        """The same warehouse as of a version."""
        return replace(self, as_of=version)

    def is_published(self, key: str) -> bool:
        """Whether this work is in the ledger by now."""
        return self.ledger.find(key) is not None

    def read_table(
        self,
        table: str,
        *,
        rounds: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        verified: bool = False,
    ) -> pa.Table:
        """The live rows of `table` with page checksums verified, columns in schema order.

        `keys`: the work of these ledger keys alone (Ledger.files_of). `verified`: every file is
        read whole, once, and its sha256 held against the ledger's before anything is decoded.
        Raises CorruptFile naming a damaged or missing file, WarehouseError for an unknown table,
        column or key.
        """
        if table not in TABLES:
            raise WarehouseError(f"no table {table}; there are: {', '.join(TABLES)}")
        schema = TABLES[table].schema
        unknown = sorted(set(columns or ()) - set(schema.names))
        if unknown:
            raise WarehouseError(f"table {table} has no columns {unknown}")
        if columns is not None:
            schema = pa.schema([field for field in schema if field.name in columns])
        which = (self.as_of, table, rounds)
        while True:
            ledger = self.ledger
            files = ledger.files(*which) if keys is None else ledger.files_of(keys, *which)
            try:
                parts = [_read_file(self.store, file, schema, verified) for file in files]
                # An empty table is made of arrays, for which pyarrow imports pandas: half a second.
                return pa.concat_tables(parts) if parts else schema.empty_table()
            except MissingFile as error:
                if not ledger.is_dead(error.path):  # or else a forget has written it anew meanwhile
                    raise

    def connect(
        self,
        rounds: Sequence[int | None] | None = None,
        *,
        only: Callable[[LiveFile], bool] | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with a view per table and mart; see catalog/catalog.py."""
        from warehouse.catalog.catalog import open_views

        return open_views(self.store, self.ledger.snapshot(self.as_of), rounds, only=only)


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
