"""`roundhouse sql`, `query` and `describe`, one thin function each. Registered in cli.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline.commands.options import AsOf, Root
from pipeline.commands.printing import print_rows

if TYPE_CHECKING:
    from warehouse.console.session import Session

Style = Annotated[
    str | None,
    typer.Option("--format", help="table, long, csv, json or parquet; default: by --out's suffix"),
]
Out = Annotated[Path | None, typer.Option("--out", help="a file instead of the screen")]
_LONG_QUERIES = ("why",)
_CANCELLED = 130
_BROKEN_PIPE = 141  # as a shell counts a program that its reader has left


def sql(
    warehouse: Root,
    query: Annotated[
        str | None,
        typer.Argument(help="none: a session on a terminal, else read from standard input"),
    ] = None,
    style: Style = None,
    out: Out = None,
    as_of: AsOf = None,
) -> None:
    """Ask the warehouse in SQL, read-only: a view per table and mart, nothing else in reach."""
    with _answering():
        from warehouse.console.answers import style_of
        from warehouse.console.session import Session

        chosen = style_of(out, style)
        is_session = query is None and sys.stdin.isatty() and sys.stdout.isatty()
        if is_session and out is not None:
            raise typer.BadParameter("--out goes with a query; in a session: .output FILE")
        session = Session(warehouse, as_of)
        if is_session:
            _start_shell(session, warehouse, chosen)
        else:
            text = query if query is not None else sys.stdin.read()
            session.run(text, chosen, out and session.checked_output(out))


def query(
    warehouse: Root,
    name: Annotated[str | None, typer.Argument(help="a mart or question; none: list them")] = None,
    rollout: Annotated[str | None, typer.Option(help="for `why`: the rollout's id")] = None,
    number: Annotated[int | None, typer.Option("--round", help="only this round")] = None,
    style: Style = None,
    out: Out = None,
    as_of: AsOf = None,
) -> None:
    """A named question: a mart, or `why --rollout ID`."""
    from warehouse.catalog.catalog import query_names

    if name is None:
        print_rows(("query", "one row is"), sorted(query_names().items()))
        return
    with _answering():
        from warehouse.console.answers import print_answer, style_of, write_answer
        from warehouse.console.session import Session

        long = "long" if name in _LONG_QUERIES and out is None else None
        chosen = style_of(out, style or long)
        session = Session(warehouse, as_of)
        relation = session.question(name, rollout=rollout, number=number)
        if out is None:
            print_answer(session.queries, relation, chosen)
        else:
            write_answer(session.queries, relation, chosen, session.checked_output(out))


def describe(
    warehouse: Root,
    name: Annotated[str | None, typer.Argument(help="a table, mart or question")] = None,
    style: Style = None,
    as_of: AsOf = None,
) -> None:
    """What the tables and marts hold: what a row is, its key, every column in one sentence."""
    with _answering():
        from warehouse.console.answers import print_answer, style_of
        from warehouse.console.session import Session

        chosen = style_of(None, style)
        session = Session(warehouse, as_of)
        if name is not None and chosen == "table":
            typer.echo(f"{session.about(name)}\n")
        relation = session.tables() if name is None else session.columns(name)
        print_answer(session.queries, relation, chosen)


def _start_shell(session: Session, warehouse: str, style: str) -> None:
    from warehouse.console.shell import Shell
    from warehouse.store.local_cache import user_cache

    typer.echo(
        f"{warehouse}, version {session.version}, read-only. .help says what there is, "
        "a statement ends with ;"
    )
    Shell(session, style).run(user_cache() / "sql_history")


@contextmanager
def _answering() -> Iterator[None]:
    """Wrong use, Ctrl-C and a reader that has left (`| head`) end a command without a traceback."""
    from warehouse.console.queries import OutputError, QueryCancelled

    try:
        yield
        sys.stdout.flush()
    except OutputError as error:
        raise typer.BadParameter(str(error)) from error
    except (QueryCancelled, KeyboardInterrupt):
        _end_cancelled()
    except BrokenPipeError:
        # What is left in the buffer has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_BROKEN_PIPE) from None


def _end_cancelled() -> NoReturn:
    """Ends the process at once: files are closed and removed by now, and a thread of the database
    that is still on its way out would abort an orderly end of the interpreter.
    """
    typer.echo("cancelled", err=True)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(_CANCELLED)
