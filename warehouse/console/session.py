"""One locked-down look at a warehouse: SQL in, answers out; and what its tables hold, in words.

Shared by `roundhouse sql`, `query` and `describe` and by the interactive shell (shell.py). Not
here: which statements may run (warehouse.console.statements), how an answer is written
(answers.py).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.catalog.catalog import connect, describe_columns, load_query, lock_down, query_names
from warehouse.catalog.descriptions import load_descriptions
from warehouse.catalog.table_views import quote
from warehouse.console.answers import print_answer, write_answer
from warehouse.console.queries import OutputError, Queries
from warehouse.console.statements import Statement, reading_statements
from warehouse.errors import WarehouseError
from warehouse.ledger.commits import dead_paths
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store

if TYPE_CHECKING:
    import duckdb

_DESCRIBE = re.compile(r"\s*desc(?:ribe)?\s+\"?(\w+)\"?\s*;?\s*", re.IGNORECASE)


class Session:
    """A connection to version `as_of` of the warehouse that can only read, until it is closed."""

    def __init__(self, root: str | Path, as_of: int | None = None) -> None:
        self._root = str(root)
        self.con = connect(root, as_of)
        describe_columns(self.con)
        lock_down(self.con, root)
        self.queries = Queries(self.con)
        names = "select view_name, comment from duckdb_views() where not internal order by 1"
        self.views: dict[str, str] = dict(self.con.sql(names).fetchall())

    def run(self, text: str, style: str, out: Path | None = None) -> None:
        """Runs the statements of `text` in order; prints each answer, or writes the one to `out`.

        All are looked at before the first one runs. Raises ForbiddenStatement, OutputError where
        `out` would have to take several answers, QueryCancelled, WarehouseError for a file deleted
        since the session began, and whatever DuckDB raises.
        """
        statements = reading_statements(self.con, text)
        answers = sum(statement.has_rows for statement in statements)
        if out is not None and answers != 1:
            raise OutputError(f"{out} takes one answer, and this gives {answers}")
        for statement in statements:
            with self._deletions_explained():
                relation = self._ask(statement)
                if relation is None:
                    continue
                if out is None:
                    print_answer(self.queries, relation, style)
                else:
                    write_answer(self.queries, relation, style, out)

    @contextmanager
    def _deletions_explained(self) -> Iterator[None]:
        """Raises WarehouseError where DuckDB misses a file that was deleted since we connected."""
        try:
            yield
        except Exception as error:
            said = str(error)
            if ".parquet" in said:
                commits = Ledger(open_store(self._root, read_only=True)).commits()
                if gone := [path for path in dead_paths(commits) if path in said]:
                    raise WarehouseError(
                        f"{gone[0]} has been deleted by a forget or a vacuum since this session "
                        "began; open a new one"
                    ) from error
            raise

    def _ask(self, statement: Statement) -> duckdb.DuckDBPyRelation | None:
        if (match := _DESCRIBE.fullmatch(statement.text)) and match[1].lower() in self.views:
            return self.columns(match[1].lower())
        if statement.has_rows:
            return self.queries.call(lambda: self.con.sql(statement.text))
        self.queries.call(lambda: self.con.execute(statement.text).fetchall())
        return None

    @property
    def version(self) -> int:
        """The version that is looked at; -1 for an empty warehouse."""
        ((version,),) = self.con.sql("select coalesce(max(version), -1) from commits").fetchall()
        return int(version)

    def checked_output(self, out: Path) -> Path:
        """`out`, unless it lies among the warehouse's own files. Raises OutputError."""
        if "://" in self._root:
            return out
        root, place = Path(self._root).resolve(), out.resolve()
        # The folder itself is free: the report lies there.
        if place.is_relative_to(root) and place.parent != root:
            raise OutputError(f"{out} lies in the warehouse, which is only read here")
        if out.is_dir():
            raise OutputError(f"{out} is a folder; name a file")
        return out

    def question(
        self, name: str, *, rollout: str | None = None, number: int | None = None
    ) -> duckdb.DuckDBPyRelation:
        """The answer to a named question, of one round or all.

        Raises WarehouseError for an unknown name, a missing parameter or an unknown rollout.
        """
        text = load_query(name)
        params = None
        if "$rollout" in text:
            if rollout is None:
                raise WarehouseError(f"query {name} needs --rollout ID")
            params = {"rollout": rollout}
            known = "select 1 from rollouts where rollout_id = $rollout"
            if not self.queries.call(self.con.sql(known, params=params).fetchall):
                raise WarehouseError(f"{self._root}: no rollout {rollout}")
        relation = self.queries.call(lambda: self.con.sql(text, params=params))
        if number is None:
            return relation
        if "round" not in relation.columns:
            raise WarehouseError(f"query {name} spans the rounds; leave --round out")
        return relation.filter(f"round = {number:d}")

    def tables(self) -> duckdb.DuckDBPyRelation:
        """Every table, mart and view of the ledger, with what one row of it is."""
        tables = ", ".join(map(quote, TABLES))
        return self.con.sql(
            "select view_name as name, "
            f"case when view_name in ({tables}) then 'table' "
            "when view_name in ('commits', 'files') then 'ledger' else 'mart' end as kind, "
            "comment as description from duckdb_views() where not internal "
            "order by kind = 'mart', kind <> 'table', name"
        )

    def columns(self, name: str) -> duckdb.DuckDBPyRelation:
        """The columns of a table, mart or question: column_name, column_type, description.

        Raises WarehouseError for an unknown name.
        """
        if name in self.views:
            return self.con.sql(
                "select column_name, data_type as column_type, comment as description "
                f"from duckdb_columns() where table_name = {quote(name)} and schema_name = 'main' "
                "order by column_index"
            )
        sql = _question(name)
        answer = self.con.sql(sql, params={"rollout": ""} if "$rollout" in sql else None)
        known = load_descriptions(with_questions=True).of(name, answer.columns)
        return self.con.sql(
            "select unnest($names::varchar[]) as column_name, "
            "unnest($types::varchar[]) as column_type, unnest($said::varchar[]) as description",
            params={
                "names": answer.columns,
                "types": list(map(str, answer.types)),
                "said": list(map(known.get, answer.columns)),
            },
        )

    def about(self, name: str) -> str:
        """What one row is, what identifies it, and how to read it.

        Raises WarehouseError for an unknown name.
        """
        if name in TABLES:
            table = TABLES[name]
            return f"{name}: {table.grain}\nkey: {', '.join(table.key)}"
        if name in self.views and name not in query_names():
            return f"{name}: {self.views[name]}"
        first, *more = _header(_question(name))
        return "\n".join([f"{name}: {first}", *textwrap.wrap(" ".join(more), 100)])


def _question(name: str) -> str:
    """The SQL of the mart or question `name`. Raises WarehouseError."""
    if name not in query_names():
        raise WarehouseError(f"{name}: no such table, mart or question")
    return load_query(name)


def _header(sql: str) -> list[str]:
    """The lines of the comment that a query begins with."""
    lines = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return lines
