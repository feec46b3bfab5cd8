"""The checks that rows must pass before they are committed: keys, and the queries of `sql/checks`.

Not here: what of the rows is written (prepared.py), the queries themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from warehouse.catalog import catalog
from warehouse.catalog.table_views import create_table_view
from warehouse.errors import WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.schemas import TABLES
from warehouse.store.base import Store

_SHOWN_ROWS = 5


class PublishRefused(WarehouseError):
    """The rows break a rule of the warehouse; the message names the rule and the first rows."""


def run_checks(
    store: Store, key: str, fresh: Mapping[str, pa.Table], live: Sequence[LiveFile]
) -> None:
    """Each key once, and sql/checks over the fresh rows and what is live of their rounds."""
    rounds: set[int | None] = set()
    for name, rows in fresh.items():
        for column in {"round", "source_round"} & set(rows.column_names):
            if TABLES[name].by_round:
                rounds.update(rows.column(column).unique().to_pylist())
    checks = {
        check: sql
        for check, sql in catalog.load_checks().items()
        if any(catalog.mentions(sql, name) for name in fresh)
    }
    con = catalog.open_connection()
    for name, rows in fresh.items():
        con.register(f"fresh_{name}", rows)
        if TABLES[name].by_round and name != "labels":  # sql/checks has it for labels, over all
            refuse_repeated_keys(con, name, f"fresh_{name}")
    for name in TABLES:
        if not any(catalog.mentions(sql, name) for sql in checks.values()):
            continue
        files = [file for file in live if file.table == name]
        if TABLES[name].by_round:
            files = [file for file in files if file.round in rounds]
        create_table_view(con, store, name, files)
        if name in fresh:
            con.execute(f"alter view {name} rename to live_{name}")
            con.execute(
                f"create view {name} as from live_{name} union all by name from fresh_{name}"
            )
    for check, sql in checks.items():
        refuse_rows(con, f"{key}: check {check} found bad rows", sql)


def refuse_repeated_keys(con: duckdb.DuckDBPyConnection, name: str, view: str) -> None:
    """Raises PublishRefused where a key of table `name` stands twice in `view`."""
    keys = ", ".join(TABLES[name].key)
    refuse_rows(
        con,
        f"table {name}: key ({keys}) stands more than once",
        f"select {keys}, count(*) as n from {view} group by {keys} having n > 1",
    )


def refuse_rows(con: duckdb.DuckDBPyConnection, rule: str, bad: str) -> None:
    """Raises PublishRefused naming the rule and the first rows of the query `bad`, if it has any.

    One statement: a relation would be bound once for each step that it is made of.
    """
    rows = con.execute(f"from (\n{bad}\n) limit {_SHOWN_ROWS}").fetchall()
    if rows:
        columns = [name for name, *_ in con.description or ()]
        shown = "".join(f"\n  {dict(zip(columns, row, strict=True))}" for row in rows)
        raise PublishRefused(f"{rule}, the first of them:{shown}")
