"""`roundhouse sql WAREHOUSE` on a terminal: a session with history and completion.

A statement ends with `;`, a line that begins with a dot is a command. Ctrl-C cancels a running
query and keeps the session, Ctrl-D ends it. Not here: what may run (warehouse.console.statements),
what can be completed (completion.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from warehouse.console.answers import FORMATS, print_answer, style_of
from warehouse.console.completion import SqlCompleter
from warehouse.console.queries import OutputError, QueryCancelled
from warehouse.console.session import Session
from warehouse.errors import WarehouseError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

# Strings and comments: a semicolon in them ends nothing, one that is left open waits for its end.
_QUOTED = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*(?:\n|$)|/\*.*?\*/|(?P<open>['\"]|/\*)", re.DOTALL
)
_HELP = """\
A statement ends with ; and may take several lines. Only what reads is allowed.
.tables              the tables and marts, with what one row of each is
.describe NAME       columns of a table, mart or question: type and meaning
.format FORMAT       table, long, csv or json, from now on
.output FILE         the next answer goes to FILE (.csv, .json, .parquet, or text)
.help                this
.quit                the end, like Ctrl-D
Ctrl-C cancels a running query or clears the line. Tab completes, the arrows recall.
"""


def is_complete(text: str) -> bool:
    """Whether Enter runs the text: a command, nothing, or SQL that ends with a semicolon."""
    if not text.strip() or text.lstrip().startswith("."):
        return True
    if any(found["open"] for found in _QUOTED.finditer(text)):
        return False
    return _QUOTED.sub(" ", text).rstrip().endswith(";")


class Shell:
    """Reads statements and commands until the user leaves."""

    def __init__(self, session: Session, style: str = "table") -> None:
        self._session = session
        self._style = style
        self._out: Path | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            ".tables": self._print_tables,
            ".describe": self._describe,
            ".format": self._choose_format,
            ".output": self._choose_output,
            ".help": lambda _: _say(_HELP.rstrip()),
        }

    def run(self, history_file: Path, **terminal: Any) -> None:
        """The session; `terminal` are prompt_toolkit's `input` and `output`, for tests."""
        prompt = _prompt_session(self._session, history_file, terminal)
        while True:
            try:
                text = prompt.prompt("roundhouse> ").strip()
                if text in (".quit", ".exit"):
                    return
                self.take(text)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def take(self, text: str) -> None:
        """One statement or command; what goes wrong is said, and the session goes on."""
        try:
            if text.startswith("."):
                name, _, rest = text.partition(" ")
                if name not in self._commands:
                    raise OutputError(f"{name}: no such command; .help lists them")
                self._commands[name](rest.strip().rstrip(";").strip())
            elif text:
                self._ask(text)
        except QueryCancelled:
            _say("cancelled")
        except KeyboardInterrupt:
            _say("stopped")
        except (OutputError, WarehouseError, duckdb.Error, OSError) as error:
            _say(str(error), file=sys.stderr)

    def _ask(self, text: str) -> None:
        out, self._out = self._out, None
        style = self._style if out is None else style_of(out, None)
        self._session.run(text, style, out)
        if out is not None:
            _say(f"written to {out}")

    def _print_tables(self, _: str) -> None:
        print_answer(self._session.queries, self._session.tables(), "table")

    def _describe(self, name: str) -> None:
        if not name:
            raise OutputError(".describe NAME: of what? .tables lists the names")
        _say(f"{self._session.about(name)}\n")
        print_answer(self._session.queries, self._session.columns(name), "table")

    def _choose_format(self, name: str) -> None:
        if name not in FORMATS[:-1]:
            hint = "; parquet needs .output FILE.parquet" if name == "parquet" else ""
            raise OutputError(f".format takes one of {', '.join(FORMATS[:-1])}{hint}")
        self._style = name

    def _choose_output(self, name: str) -> None:
        if not name:
            raise OutputError(".output FILE: where to?")
        self._out = self._session.checked_output(Path(name).expanduser())
        _say(f"the next answer goes to {name}")


def _prompt_session(
    session: Session, history_file: Path, terminal: dict[str, Any]
) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    return PromptSession(
        history=_history(history_file),
        completer=SqlCompleter(session),
        complete_while_typing=False,
        lexer=PygmentsLexer(SqlLexer),
        multiline=True,
        prompt_continuation="        ... ",
        key_bindings=_enter_runs(),
        **terminal,
    )


def _enter_runs() -> KeyBindings:
    from prompt_toolkit.filters import completion_is_selected
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter", filter=~completion_is_selected)
    def run_or_break(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline()

    return bindings


def _history(path: Path) -> History:
    """What was asked before, kept for this user alone: a question can tell as much as an answer."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _say(text: str, file: Any = None) -> None:
    print(text, file=file or sys.stdout, flush=True)
