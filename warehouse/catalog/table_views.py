"""A table of a version as a DuckDB view over the files that the ledger lists.

DuckDB reads a folder itself; on S3 it reads through a pyarrow data set, whose fragments carry the
size that the ledger knows, so a query costs no listing and no HEAD. (DuckDB 2.0 over an fsspec file
system read wrong bytes.) DuckDB ignores page checksums; Warehouse.read_table checks them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from warehouse.ledger.commits import LiveFile
from warehouse.schemas import SCHEMA_VERSION, TABLES
from warehouse.store.base import Store

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_SQL_TYPES = {
    pa.string(): "varchar",
    pa.large_string(): "varchar",
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def create_table_view(
    con: duckdb.DuckDBPyConnection, store: Store, name: str, files: Sequence[LiveFile]
) -> None:
    """Creates the view of table `name` over `files` of `store`, or replaces it by one of its types.

    No files make an empty table.
    """
    if files and store.local_path(files[0].path) is None:
        con.register(f"_remote_{name}", remote_dataset(store, name, files))
        query = f"from _remote_{name}"
    else:
        query = _local_query(con, store, name, files)
    con.execute(f"create or replace view {name} as {query}")
    con.execute(f"comment on view {name} is {quote(TABLES[name].grain)}")


def remote_dataset(store: Store, name: str, files: Sequence[LiveFile]) -> ds.Dataset:
    """The rows of `files` as a pyarrow data set in the table's schema.

    A column that a file does not have yet is NULL; a filter on `round` skips whole files.
    """
    import pyarrow.dataset as ds

    file_system, base = store.arrow_files()
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    reader = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    fragments = [
        reader.make_fragment(
            f"{base}/{file.path}",
            file_system,
            partition_expression=None if file.round is None else ds.field("round") == file.round,
            file_size=file.bytes,
        )
        for file in files
    ]
    return ds.FileSystemDataset(fragments, TABLES[name].schema, reader, file_system)


def _local_query(
    con: duckdb.DuckDBPyConnection, store: Store, name: str, files: Sequence[LiveFile]
) -> str:
    """Files of one schema version have the same columns, so DuckDB may go by the first of them.

    Over several versions the first file's columns would silently win: each is read by itself and
    joined by name. (`union_by_name` within read_parquet opens every file for every query.)
    """
    parts = []
    if all(file.schema_version < SCHEMA_VERSION for file in files):
        # Columns that no file has yet must still be there, as NULL. Written as DDL, since DuckDB
        # imports pandas (0.2 s) the moment it sees an Arrow object.
        con.execute("create schema if not exists empty")
        typed = (f"{_quote_name(f.name)} {_sql_type(f.type)}" for f in TABLES[name].schema)
        con.execute(f"create table if not exists empty.{name} ({', '.join(typed)})")
        parts.append(f"select * from empty.{name}")
    root = str(store.local_path("_")).removesuffix("_")
    alike: dict[tuple[int, str], list[str]] = {}
    for file in files:
        # Where the warehouse's own path has a `=`, DuckDB would take that for a column as well.
        columns = "" if "=" in root else _folder_columns(name, file.path)
        alike.setdefault((-file.schema_version, columns), []).append(root + file.path)
    for (_, columns), paths in sorted(alike.items()):
        # Folders like `round=17` tell DuckDB which files it need not open.
        hive = f"true, hive_types = {{{columns}}}" if columns else "false"
        listed = ", ".join(map(quote, paths))
        parts.append(f"select * from read_parquet([{listed}], hive_partitioning = {hive})")
    return " union all by name ".join(parts)


def _folder_columns(table: str, path: str) -> str:
    """The columns that the folders of `path` name, with their SQL types; empty for none."""
    names = tuple(part.partition("=")[0] for part in path.split("/") if "=" in part)
    return _sql_types(table, names)


@functools.cache
def _sql_types(table: str, names: tuple[str, ...]) -> str:
    schema = TABLES[table].schema
    types = {name: _sql_type(schema.field(name).type) for name in names}
    return ", ".join(f"{quote(name)}: {quote(kind)}" for name, kind in types.items())


def quote(text: str) -> str:
    """`text` as a string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the schemas use. Raises KeyError for any other."""
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{_quote_name(f.name)} {_sql_type(f.type)}' for f in kind)})"
    return _SQL_TYPES[kind]


def _quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
