"""Which SQL the audit console runs: what reads, and nothing that writes, loads or reconfigures.

DuckDB's own locks (catalog.lock_down) keep a session inside the warehouse's folder and off the
network. They do not stop `copy` into that folder, which also hides in a common table expression
and behind `explain analyze`; so every statement is parsed by DuckDB and its syntax tree is read
before it runs. Not here: running it (pipeline's sql commands).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from warehouse.errors import WarehouseError

_QUERIES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
# What a query may call in its `from`. Others follow raw pointers (arrow_scan), run text that nobody
# has looked at (query, json_execute_serialized_sql) or change settings (enable_logging).
_TABLE_FUNCTIONS = {
    *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
    *("query_table", "glob", "read_text", "read_blob", "read_csv", "read_csv_auto", "sniff_csv"),
    *("read_json", "read_json_auto", "read_json_objects", "read_ndjson", "read_ndjson_auto"),
    *("read_parquet", "parquet_scan", "parquet_metadata", "parquet_file_metadata"),
    *("parquet_full_metadata", "parquet_kv_metadata", "parquet_schema", "parquet_bloom_probe"),
    *("duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_settings", "duckdb_tables"),
    *("duckdb_types", "duckdb_variables", "duckdb_views", "pragma_table_info", "pragma_version"),
}
_FLAGS = re.IGNORECASE | re.DOTALL
_LEAD = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_EXPLAIN = re.compile(
    rf"{_LEAD}explain\b(?:\s+analyze\b)?(?:\s*\(\s*(?:analyze|format)\b[\w\s,]*\))?(.+)", _FLAGS
)
# Names and column lists of word characters only: a quoted `) as select 1 --` would hide the query.
_CREATE = re.compile(
    rf"{_LEAD}create\s+(?:or\s+replace\s+)?temp(?:orary)?\s+(?:view|table)\s+"
    r"(?:if\s+not\s+exists\s+)?(?P<name>\w+|\"\w+\")\s*(?:\([\w\s,]*\))?\s*\bas\b(?P<query>.+)",
    _FLAGS,
)
_SET = re.compile(rf"{_LEAD}set\s+variable\s+\w+\s*(?:=|\bto\b)(.+)", _FLAGS)
_ALLOWED = (
    "select, describe, show, summarize, explain, create temp view or table … as, set variable"
)


class ForbiddenStatement(WarehouseError):
    """A statement that does more than read; the message says what would be allowed."""

    exit_code = 2


@dataclass(frozen=True)
class Statement:
    """One statement that only reads; `has_rows`: it is a question, whose answer is rows."""

    text: str
    has_rows: bool


def reading_statements(con: duckdb.DuckDBPyConnection, text: str) -> list[Statement]:
    """The statements of `text` in order, all of which only read; nothing is run yet.

    A temporary view or table may be made from what is read, under a name of its own; it goes with
    the session. Raises ForbiddenStatement, and duckdb.ParserException for what is no SQL.
    """
    found = []
    for statement in con.extract_statements(text):
        kind = statement.type.name
        _check(con, kind, statement.query)
        found.append(Statement(statement.query, kind in ("SELECT", "EXPLAIN")))
    return found


def _check(con: duckdb.DuckDBPyConnection, kind: str, text: str) -> None:
    if kind == "SELECT":
        _check_query(con, text)
    elif kind == "EXPLAIN" and (match := _EXPLAIN.fullmatch(text)):
        _check_query(con, match[1])
    elif kind == "SET" and (match := _SET.fullmatch(text)):
        _check_query(con, f"select {match[1]}")
    elif kind == "CREATE" and (match := _CREATE.fullmatch(text)):
        _check_name(con, match["name"].strip('"'))
        _check_query(con, match["query"])
    elif kind == "MULTI":
        raise ForbiddenStatement(
            "pivot without its values makes types first, and this session only reads; "
            "name the values: pivot … on column in ('a', 'b')"
        )
    else:
        name = {"LOAD": "install or load"}.get(kind, kind.lower().replace("_", " "))
        raise ForbiddenStatement(
            f"{name} is not allowed here: this session only reads ({_ALLOWED})"
        )


def _check_query(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raises ForbiddenStatement unless `text` is one query whose every part only reads."""
    found = con.sql("select json_serialize_sql($query)", params={"query": text}).fetchall()
    tree = json.loads(found[0][0])
    if tree["error"]:
        raise ForbiddenStatement(
            f"only queries are allowed here ({_ALLOWED}); DuckDB says: {tree['error_message']}"
        )
    for node in _nodes(tree):
        kind = node.get("type")
        if not isinstance(kind, str):
            continue
        if kind.endswith("_NODE") and kind not in _QUERIES:
            what = kind.removesuffix("_NODE").removesuffix("_QUERY").lower()
            raise ForbiddenStatement(
                f"{what} is not allowed here, also not inside a query: this session only reads"
            )
        if kind == "TABLE_FUNCTION":
            called = str(node["function"].get("function_name", "")).lower()
            if called not in _TABLE_FUNCTIONS:
                raise ForbiddenStatement(f"the table function {called} is not allowed here")


def _check_name(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Raises ForbiddenStatement for the name of a table or mart: it must keep its meaning."""
    query = (
        "select 1 from information_schema.tables "
        "where table_schema = 'main' and table_catalog <> 'temp' and lower(table_name) = $name"
    )
    if con.sql(query, params={"name": name.lower()}).fetchall():
        raise ForbiddenStatement(f"{name} is a name of the warehouse; choose another one")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON tree."""
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
