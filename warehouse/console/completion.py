"""What Tab offers in the SQL session: tables, marts, columns, words of SQL, commands, files.

Columns of what the statement already names come first. Not here: the session (shell.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from warehouse.catalog.catalog import query_names
from warehouse.console.answers import FORMATS

if TYPE_CHECKING:
    from warehouse.console.session import Session

_COMMANDS = {
    ".tables": "the tables and marts",
    ".describe": "the columns of one",
    ".format": "how answers look",
    ".output": "the next answer into a file",
    ".help": "what there is",
    ".quit": "the end",
}
_FUNCTIONS = {
    *("avg", "count", "sum", "min", "max", "median", "quantile_cont", "stddev", "corr"),
    *("arg_max", "arg_min", "list", "string_agg", "bool_or", "bool_and", "any_value", "histogram"),
    *("coalesce", "nullif", "greatest", "least", "round", "abs", "ln", "exp", "sqrt", "lower"),
    *("upper", "length", "contains", "regexp_matches", "regexp_extract", "split_part", "unnest"),
    *("date_trunc", "epoch", "json_extract_string", "row_number", "rank", "lag", "lead"),
    *("over", "filter", "set", "variable", "temp", "view", "explain"),
}
_WORD = re.compile(r"[\w.]*$")
_NAMED = re.compile(r"\b(?:from|join)\s+(\w+)(?:\s+(?:as\s+)?(?!on\b|using\b|where\b)(\w+))?", re.I)


class SqlCompleter(Completer):
    """Offers names of the session's warehouse."""

    def __init__(self, session: Session) -> None:
        self._views = session.views
        self._columns: dict[str, dict[str, str]] = {}
        rows = session.con.sql(
            "select table_name, column_name, coalesce(comment, '') from duckdb_columns() "
            "where schema_name = 'main' and not internal"
        ).fetchall()
        for view, column, comment in rows:
            self._columns.setdefault(view, {})[column] = comment
        words = session.con.sql(
            "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
        ).fetchall()
        self._words = sorted({word for (word,) in words} | _FUNCTIONS)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        """The completions at the cursor, best first."""
        text = document.text_before_cursor
        if text.lstrip().startswith("."):
            yield from self._of_command(text.lstrip(), event)
            return
        found = _WORD.search(text)
        word = found[0] if found else ""
        seen: set[str] = set()
        for name, about in self._offers(document.text, word):
            start = word.rpartition(".")[2]
            if name.lower().startswith(start.lower()) and name not in seen:
                seen.add(name)
                yield Completion(name, -len(start), display_meta=about)

    def _of_command(self, text: str, event: CompleteEvent) -> Iterator[Completion]:
        command, space, rest = text.partition(" ")
        if not space:
            yield from _starting(_COMMANDS.items(), command)
        elif command == ".describe":
            yield from _starting((self._views | query_names()).items(), rest)
        elif command == ".format":
            yield from _starting(((name, "") for name in FORMATS[:-1]), rest)
        elif command == ".output":
            yield from PathCompleter(expanduser=True).get_completions(Document(rest), event)

    def _offers(self, statement: str, word: str) -> Iterator[tuple[str, str]]:
        """Names and what they are: for `a.` the columns of `a`, else columns, tables, words."""
        named = [(view.lower(), alias) for view, alias in _NAMED.findall(statement)]
        named = [(view, alias) for view, alias in named if view in self._columns]
        owner = word.rpartition(".")[0].lower()
        if owner:
            for view, alias in [*named, (owner, "")]:
                if owner in (view, alias.lower()):
                    yield from self._columns.get(view, {}).items()
            return
        for view, _ in named:
            yield from self._columns[view].items()
        if not word:
            return
        yield from self._views.items()
        if not named:
            for columns in self._columns.values():
                yield from columns.items()
        yield from ((name, "") for name in self._words)


def _starting(offers: Iterable[tuple[str, str]], start: str) -> Iterator[Completion]:
    for name, about in offers:
        if name.startswith(start):
            yield Completion(name, -len(start), display_meta=about)
