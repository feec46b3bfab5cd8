"""Answers to SQL: a table for people, or CSV, JSON or Parquet for programs; on screen or in a file.

CSV, JSON and Parquet pass through in batches, so an answer may be larger than memory. A file gets
its name when it is whole. Ctrl-C cancels the query (QueryCancelled) and leaves no file. Not here:
which statements may run (warehouse.console.statements), the commands (pipeline/commands/sql.py),
the session (shell.py).
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.console.queries import OutputError, Queries
from warehouse.files import whole_file

if TYPE_CHECKING:
    import duckdb

FORMATS = ("table", "long", "csv", "json", "parquet")
_NESTED = {"list", "array", "struct", "map", "union"}
_NO_JSON = re.compile(r"\bNaN\b|\binf\b|\bInfinity\b", re.IGNORECASE)


def style_of(out: Path | None, style: str | None) -> str:
    """The format: as asked for, else by the file's suffix, else a table. Raises OutputError."""
    suffix = out.suffix.removeprefix(".") if out else ""
    chosen = style or (suffix if suffix in FORMATS else "table")
    if chosen not in FORMATS:
        raise OutputError(f"{chosen}: expected one of {', '.join(FORMATS)}")
    if chosen == "parquet" and out is None:
        raise OutputError("parquet is no text: say where to with --out FILE")
    return chosen


def write_answer(
    queries: Queries, relation: duckdb.DuckDBPyRelation, style: str, out: Path
) -> None:
    """Writes the answer into the file `out`, which is there whole or, after a failure, not at all.

    Raises OutputError where Parquet has no type or name for a column.
    """
    with whole_file(out) as fresh:
        if style == "parquet":
            _write_parquet(queries, relation, fresh)
        else:
            with fresh.open("w", encoding="utf-8", newline="") as file:
                for text in answer_text(queries, relation, style):
                    file.write(text)


def print_answer(queries: Queries, relation: duckdb.DuckDBPyRelation, style: str) -> None:
    """Prints the answer; a table on a terminal is cut to what one can read."""
    for text in answer_text(queries, relation, style, is_terminal=sys.stdout.isatty()):
        sys.stdout.write(text)
    sys.stdout.flush()


def answer_text(
    queries: Queries, relation: duckdb.DuckDBPyRelation, style: str, is_terminal: bool = False
) -> Iterator[str]:
    """The answer as text, piece by piece."""
    if style == "csv":
        yield from _csv(queries, relation)
    elif style == "json":
        yield from _json(queries, relation)
    else:
        from warehouse.console.table import table_text

        text = table_text(queries, relation, is_long=style == "long", is_terminal=is_terminal)
        yield from text.splitlines(keepends=True)


def _csv(queries: Queries, relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """A header and rows: NULL is empty, times are UTC, lists and structs are JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(relation.columns)
    yield _taken(buffer)
    # By place, since two columns may have one name.
    texts = ", ".join(
        f"to_json(#{place})::varchar" if kind.id in _NESTED else f"#{place}::varchar"
        for place, kind in enumerate(relation.types, start=1)
    )
    for batch in queries.batches(relation.project(texts)):
        writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        yield _taken(buffer)


def _json(queries: Queries, relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """One array, an object a line."""
    rows = relation.set_alias("_answer_row").project("to_json(_answer_row)::varchar")
    before = "["
    for batch in queries.batches(rows):
        lines = (_valid_json(text) for text in batch.column(0).to_pylist())
        yield before + "\n" + ",\n".join(lines)
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _valid_json(text: str) -> str:
    """JSON has no NaN and no infinity, DuckDB writes them all the same: they become null."""
    if not _NO_JSON.search(text):
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)


def _write_parquet(queries: Queries, relation: duckdb.DuckDBPyRelation, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    twice = sorted({name for name in relation.columns if relation.columns.count(name) > 1})
    if twice:
        raise OutputError(f"two columns are called {twice[0]}: name one of them otherwise")
    reader = queries.call(lambda: relation.limit(0).to_arrow_table())
    try:
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in queries.batches(relation):
                writer.write_batch(batch)
    except pa.ArrowNotImplementedError as error:
        raise OutputError(f"Parquet cannot hold this: {error}; cast the column to text") from error


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
