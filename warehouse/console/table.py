"""Rows for people: an aligned table, or one value a line where a table would not fit.

NULL is written out, times are UTC, long lists and texts are cut on a terminal, and control
characters are spelled: a completion must not move the cursor of who reads it. Not here: formats
for programs (answers.py).
"""

from __future__ import annotations

import io
import math
import re
import shutil
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

    from warehouse.console.queries import Queries

_WIDE = 200  # off a terminal, as in pipeline/commands/printing.py
_SHOWN_ROWS = 200
_SHOWN_RECORDS = 20
_RULE = 64
_SHOWN_ITEMS = 6
_SHOWN_LETTERS = 400
_NARROW = 24  # a column of text that is broken into less than this is no pleasure to read
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def table_text(
    queries: Queries, relation: duckdb.DuckDBPyRelation, *, is_long: bool, is_terminal: bool
) -> str:
    """The rows of `relation` as text; on a terminal the first ones, fitted to its width.

    Asked for (`is_long`), or where a table would be too wide, every value has a line of its own.
    """
    wanted = relation.limit(_SHOWN_ROWS + 1) if is_terminal else relation
    rows = queries.call(wanted.fetchall)
    if relation.columns == ["explain_key", "explain_value"]:
        return "".join(f"{plan}\n" for _, plan in rows)
    cells = [[_cell(value, is_terminal and not is_long) for value in row] for row in rows]
    width = shutil.get_terminal_size().columns if is_terminal else _WIDE
    widths = _widths(relation.columns, cells)
    is_long = is_long or sum(min(w, _NARROW) + 2 for w in widths) > width
    most = len(cells)
    if is_terminal:
        most = _SHOWN_RECORDS if is_long else _SHOWN_ROWS
    shown = cells[:most]
    if is_long:
        text = _records(relation.columns, shown, width if is_terminal else None)
    else:
        text = _aligned(relation.columns, shown, rows, width)
    count = f"{len(shown)} row{'' if len(shown) == 1 else 's'}"
    if len(cells) > most:
        count = f"the first {count}; --format csv, or a file, has all"
    return f"{text}({count})\n"


def _cell(value: Any, is_cut: bool) -> str:
    text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], _text(value))
    if is_cut and len(text) > _SHOWN_LETTERS:
        return f"{text[:_SHOWN_LETTERS]}… ({len(text)} characters)"
    return text


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return str(value.astimezone(UTC))
    if isinstance(value, list | tuple):
        shown = [_text(item) for item in value[:_SHOWN_ITEMS]]
        if len(value) > _SHOWN_ITEMS:
            shown.append(f"… {len(value)} values")
        return f"[{', '.join(shown)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    return str(value)


def _number(value: float) -> str:
    """Four significant digits, or all before the point."""
    if math.isfinite(value) and 1e4 <= abs(value) < 1e15:
        return f"{value:.1f}"
    return f"{value:.4g}"


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    widths = [len(name) for name in columns]
    for row in cells:
        for place, cell in enumerate(row):
            widths[place] = max(widths[place], *map(len, cell.split("\n")))
    return widths


def _aligned(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    rows: Sequence[Sequence[Any]],
    width: int,
) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        is_number = any(
            isinstance(row[place], int | float) and not isinstance(row[place], bool) for row in rows
        )
        table.add_column(
            Text(name), justify="right" if is_number else "left", overflow="fold", min_width=1
        )
    for row in cells:
        table.add_row(*map(Text, row))
    buffer = io.StringIO()
    Console(file=buffer, width=width, highlight=False, color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _records(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int | None) -> str:
    """One value a line under the row's number; texts wrap beside their name."""
    margin = min(max(map(len, columns), default=0), 28)
    lines = []
    for number, row in enumerate(cells, start=1):
        lines.append(f"-- {number} ".ljust(min(width or _RULE, _RULE), "-"))
        for name, cell in zip(columns, row, strict=True):
            parts = cell.split("\n")
            if width is not None:
                room = max(20, width - margin - 2)
                wrap = textwrap.TextWrapper(room, replace_whitespace=False, drop_whitespace=False)
                parts = [line for part in parts for line in wrap.wrap(part) or [""]]
            lines.append(f"{name:>{margin}}: {parts[0]}")
            lines.extend(f"{'':{margin}}  {part}" for part in parts[1:])
    return "".join(f"{line.rstrip()}\n" for line in lines)
