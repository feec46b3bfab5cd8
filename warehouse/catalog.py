"""Reading: a version of the warehouse as DuckDB views, or one table as Arrow.

A version is pinned when the connection opens, so an audit keeps its rows while the night publishes.
Tables come from the explicit file list of the ledger; the queries of `sql/` follow as views named
for what one row is. Imports stay light: `roundhouse sql` starts in under a second.
Not here: writing (publish.py). DuckDB ignores page checksums; `read_table`, which training uses,
checks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from importlib.resources import files as resource_files
from importlib.resources.abc import Traversable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.ledger import CorruptFile, Ledger, LiveFile
from warehouse.schemas import SCHEMA_VERSION, TABLES
from warehouse.store import WarehouseError, open_store

_FOLDERS = ("", "audit", "questions")
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


def connect(root: str | Path, as_of: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with one view per table and one per mart, pinned to version `as_of`.

    Raises StoreError when there is no such folder, WarehouseError for an unknown version.
    """
    by_table: dict[str, list[LiveFile]] = {name: [] for name in TABLES}
    for file in Ledger(open_store(root, read_only=True)).files(as_of):
        by_table[file.table].append(file)
    con = open_connection()
    for name, files in by_table.items():
        create_table_view(con, root, name, files)
    for name, sql in _marts_in_order().items():
        con.execute(f"create view {name} as {sql}")
        con.execute(f"comment on view {name} is {_quote(_first_comment(sql))}")
    return con


def open_connection() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that never reaches for the network and thinks in UTC."""
    con = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    con.execute("set TimeZone = 'UTC'")
    return con


def create_table_view(
    con: duckdb.DuckDBPyConnection, root: str | Path, name: str, files: Sequence[LiveFile]
) -> None:
    """Creates the view of table `name` over `files`; no files make an empty table.

    `union_by_name`, because by position the first file's columns would silently win.
    """
    parts = []
    if not files or all(file.schema_version < SCHEMA_VERSION for file in files):
        # Columns that no file has yet must still be there, as NULL. Written as DDL, since DuckDB
        # imports pandas (0.2 s) the moment it sees an Arrow object.
        con.execute("create schema if not exists empty")
        columns = (f"{_quote_name(f.name)} {_sql_type(f.type)}" for f in TABLES[name].schema)
        con.execute(f"create table empty.{name} ({', '.join(columns)})")
        parts.append(f"select * from empty.{name}")
    if files:
        paths = ", ".join(_quote(str(Path(root) / file.path)) for file in files)
        parts.append(
            f"select * from read_parquet([{paths}], union_by_name = true, "
            "hive_partitioning = false)"
        )
    con.execute(f"create view {name} as {' union all by name '.join(parts)}")
    con.execute(f"comment on view {name} is {_quote(TABLES[name].grain)}")


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the schemas use. Raises KeyError for any other."""
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{_quote_name(f.name)} {_sql_type(f.type)}' for f in kind)})"
    return _SQL_TYPES[kind]


def _quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def lock_down(con: duckdb.DuckDBPyConnection, root: str | Path) -> None:
    """Makes `con` an audit console: it reads the warehouse and no other file, for good.

    DuckDB still lets COPY write inside `root`; file permissions are what forbids that.
    """
    con.execute(f"set allowed_directories = [{_quote(f'{root}/')}]")
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")


def read_table(
    root: str | Path,
    table: str,
    *,
    rounds: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    as_of: int | None = None,
    keys: Sequence[str] | None = None,
) -> pa.Table:
    """The live rows of `table` with page checksums verified, columns in schema order.

    `keys` restricts to the work of these ledger keys (Ledger.files_of). Raises CorruptFile naming a
    damaged or missing file, WarehouseError for an unknown table, column or key.
    """
    if table not in TABLES:
        raise WarehouseError(f"no table {table}; there are: {', '.join(TABLES)}")
    schema = TABLES[table].schema
    unknown = sorted(set(columns or ()) - set(schema.names))
    if unknown:
        raise WarehouseError(f"table {table} has no columns {unknown}")
    if columns is not None:
        schema = pa.schema([field for field in schema if field.name in columns])
    ledger = Ledger(open_store(root, read_only=True))
    if keys is None:
        files = ledger.files(as_of, table, rounds)
    else:
        files = ledger.files_of(keys, as_of, table, rounds)
    return pa.concat_tables(
        [schema.empty_table(), *(_read_file(Path(root), file, schema) for file in files)]
    )


def query_names() -> dict[str, str]:
    """Every query that `roundhouse query` knows, with the first line of its comment."""
    return {name: _first_comment(sql) for name, sql in sorted(_queries(*_FOLDERS))}


def load_query(name: str) -> str:
    """The SQL text of the query `name`. Raises WarehouseError listing the known names."""
    for known, sql in _queries(*_FOLDERS):
        if known == name:
            return sql
    raise WarehouseError(f"no query {name}; there are: {', '.join(query_names())}")


def load_checks() -> dict[str, str]:
    """The data tests: each query must return no row."""
    return dict(_queries("checks"))


def mentions(sql: str, name: str) -> bool:
    """Whether the query reads the table or mart `name` (comments do not count)."""
    code = re.sub(r"--.*", "", sql)
    return re.search(rf"\b(from|join)\s+{name}\b", code) is not None


def _queries(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        place: Traversable = resource_files("warehouse") / "sql" / folder
        if not place.is_dir():
            continue
        for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".sql"):
                yield entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8")


def _marts_in_order() -> dict[str, str]:
    """The marts, each after those it reads; a query with a `$parameter` cannot be a view."""
    marts = {name: sql for name, sql in _queries("") if "$" not in sql}
    reads = {
        name: [other for other in marts if other != name and mentions(sql, other)]
        for name, sql in marts.items()
    }
    return {name: marts[name] for name in TopologicalSorter(reads).static_order()}


def _first_comment(sql: str) -> str:
    return sql.partition("\n")[0].removeprefix("--").strip()


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _read_file(root: Path, file: LiveFile, schema: pa.Schema) -> pa.Table:
    try:
        parquet = pq.ParquetFile(root / file.path, page_checksum_verification=True)
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        rows = parquet.read(columns=present)
    except (OSError, pa.ArrowException) as error:
        raise CorruptFile(f"{root / file.path}: damaged or missing: {error}") from error
    if rows.num_rows != file.rows:
        raise CorruptFile(f"{root / file.path}: {rows.num_rows} rows, the ledger has {file.rows}")
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in present
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
