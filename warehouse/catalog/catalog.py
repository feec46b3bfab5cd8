"""A version of the warehouse as DuckDB views: one for each table, one for each of `sql/marts`.

A version is pinned when the connection opens, so an audit keeps its rows while the night publishes.
Tables come from the explicit file list of the ledger; the marts follow as views named for what one
row is, whatever folder they lie in. Imports stay light: `roundhouse sql` starts in under a second.
Not here: how the files of a table are read (table_views.py), writing (publish.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import duckdb

from warehouse.catalog.descriptions import load_descriptions
from warehouse.catalog.ledger_views import GRAINS, create_ledger_views
from warehouse.catalog.table_views import create_table_view, quote
from warehouse.errors import WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.ledger import Ledger, Snapshot
from warehouse.schemas import TABLES
from warehouse.store import open_store
from warehouse.store.base import Store

_SQL = Path(__file__).parents[1] / "sql"
_FOLDERS = ("marts", "audit")


def connect(
    root: str | Path,
    as_of: int | None = None,
    rounds: Sequence[int | None] | None = None,
    *,
    only: Callable[[LiveFile], bool] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with one view per table and one per mart, pinned to version `as_of`.

    With `rounds`, the tables that have rounds show the rows of these alone, and what a query costs
    does not depend on how many other nights there are. `only` chooses the files themselves, for who
    must have verified what a query reads.
    Raises StoreError when there is no such folder, WarehouseError for an unknown version.
    """
    store = open_store(root, read_only=True)
    return open_views(store, Ledger(store).snapshot(as_of), rounds, only=only)


def open_views(
    store: Store,
    version: Snapshot,
    rounds: Sequence[int | None] | None = None,
    *,
    only: Callable[[LiveFile], bool] | None = None,
) -> duckdb.DuckDBPyConnection:
    """The same for who has opened the warehouse already."""
    by_table: dict[str, list[LiveFile]] = {name: [] for name in TABLES}
    for file in version.files:
        is_wanted = rounds is None or file.round in rounds or not TABLES[file.table].by_round
        if is_wanted and (only is None or only(file)):
            by_table[file.table].append(file)
    con = open_connection()
    con.execute("begin")
    create_ledger_views(con, version.commits, version.files, version.writers)
    for name in TABLES:
        create_table_view(con, store, name, ())
    create_functions(con)
    marts = _marts_in_order()
    for name, sql in marts.items():
        con.execute(f"create view {name} as {sql}")
    # Only now: DuckDB looks into a view's files when the view is made, and again for every view
    # that reads it. Over empty tables of the same types that costs nothing.
    for name, live in by_table.items():
        if live:
            create_table_view(con, store, name, live)
    grains = GRAINS | {name: _first_comment(sql) for name, sql in marts.items()}
    for name, text in grains.items():  # the tables have theirs
        con.execute(f"comment on view {name} is {quote(text)}")
    con.execute("commit")
    return con


def describe_columns(con: duckdb.DuckDBPyConnection) -> None:
    """Comments every column of every view with what it is: for people, it takes a while."""
    descriptions = load_descriptions()
    statements = [
        f"comment on column {name}.{column} is {quote(sentence)};"
        for name, columns in view_columns(con).items()
        for column, sentence in descriptions.of(name, columns).items()
    ]
    con.execute("begin;" + "".join(statements) + "commit")


def view_columns(con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The columns of every table, mart and view of the ledger, in their order."""
    rows = con.sql(
        "select table_name, list(column_name order by column_index) from duckdb_columns() "
        "where schema_name = 'main' and not internal group by table_name order by table_name"
    ).fetchall()
    return dict(rows)


def open_connection() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that never reaches for the network and thinks in UTC."""
    con = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    con.execute("set TimeZone = 'UTC'")
    return con


def create_functions(con: duckdb.DuckDBPyConnection) -> None:
    """The functions of `sql/functions`, which the marts share."""
    for _, sql in _queries("functions"):
        con.execute(sql)


def lock_down(con: duckdb.DuckDBPyConnection, root: str | Path) -> None:
    """Makes `con` an audit console: it reads the warehouse and no other file, for good.

    On S3 no file at all is in reach: DuckDB reads through data sets that are registered already.
    COPY could still write inside a folder; console/statements.py refuses it before it runs.
    """
    is_remote = "://" in str(root)
    folders = "[]" if is_remote else f"[{quote(f'{Path(root)}/')}]"
    con.execute(f"set allowed_directories = {folders}")
    con.execute("set python_enable_replacements = false")
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")


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


def load_derivation(table: str) -> str:
    """The SQL text of the query whose answer is stored as rows of `table`."""
    return dict(_queries("tables"))[table]


def mentions(sql: str, name: str) -> bool:
    """Whether the query reads the table or mart `name` (comments do not count)."""
    code = re.sub(r"--.*", "", sql)
    return re.search(rf"\b(from|join)\s+{name}\b", code) is not None


def _queries(*folders: str) -> Iterator[tuple[str, str]]:
    """Name and text of the queries in these folders of `sql/` and in the folders within."""
    for folder in folders:
        for path in sorted((_SQL / folder).rglob("*.sql")):
            yield path.stem, path.read_text(encoding="utf-8")


@functools.cache
def _marts_in_order() -> dict[str, str]:
    """The marts, each after those it reads; a query with a `$parameter` cannot be a view."""
    marts = {name: sql for name, sql in _queries("marts") if "$" not in sql}
    reads = {
        name: [other for other in marts if other != name and mentions(sql, other)]
        for name, sql in marts.items()
    }
    return {name: marts[name] for name in TopologicalSorter(reads).static_order()}


def _first_comment(sql: str) -> str:
    return sql.partition("\n")[0].removeprefix("--").strip()
