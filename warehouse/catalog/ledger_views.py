"""The ledger in SQL: the views `commits` (what happened) and `files` (what is live now).

One row of `commits` is one version, which is what --as-of takes. Not here: the ledger itself
(ledger/ledger.py), the views of the tables (table_views.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from warehouse.catalog.table_views import quote
from warehouse.ledger.commits import Commit, LiveFile

GRAINS = {
    "commits": "one row per commit: a version of the warehouse, whose number --as-of takes",
    "files": "one row per data file that is live at this version",
}
_COLUMNS = {
    "commits": {
        "version": "bigint",
        "key": "varchar",
        "operation": "varchar",
        "committed_at": "timestamptz",
        "code_version": "varchar",
        "config_sha256": "varchar",
        "files_added": "bigint",
        "files_removed": "bigint",
        "rows_added": "bigint",
        "bytes_added": "bigint",
        "meta": "varchar",
    },
    "files": {
        "table_name": "varchar",
        "round": "integer",
        "path": "varchar",
        "rows": "bigint",
        "bytes": "bigint",
        "sha256": "varchar",
        "schema_version": "integer",
        "version": "bigint",
    },
}


def create_ledger_views(
    con: duckdb.DuckDBPyConnection,
    commits: Sequence[Commit],
    files: Sequence[LiveFile],
    writers: Mapping[str, Commit],
) -> None:
    """Creates both views from the commits up to the pinned version and the files live there.

    `writers`: of Ledger.snapshot, which knows files that stand in the place of others.

    The rows wait as one JSON text, read when a query asks: opening a year of nights pays little.
    """
    live = [
        vars(file) | {"table_name": file.table, "version": writers[file.path].version}
        for file in files
    ]
    rows = {"commits": _commit_rows(commits), "files": live}
    con.execute("create schema if not exists empty")
    con.execute("create table empty.ledger (view_name varchar, body varchar)")
    for name, columns in _COLUMNS.items():
        con.execute("insert into empty.ledger values ($1, $2)", [name, json.dumps(rows[name])])
        shape = quote(json.dumps([columns]))
        con.execute(
            f"create view {name} as select row_.* from (select unnest(from_json(body, {shape})) "
            f"as row_ from empty.ledger where view_name = {quote(name)})"
        )


def _commit_rows(commits: Sequence[Commit]) -> list[dict[str, Any]]:
    return [
        {
            "version": commit.version,
            "key": commit.key,
            "operation": commit.operation,
            "committed_at": commit.committed_at.isoformat(),
            "code_version": commit.code_version,
            "config_sha256": commit.config_sha256,
            "files_added": len(commit.add),
            "files_removed": len(commit.remove),
            "rows_added": sum(file.rows for file in commit.add),
            "bytes_added": sum(file.bytes for file in commit.add),
            "meta": json.dumps(commit.meta),
        }
        for commit in commits
    ]
