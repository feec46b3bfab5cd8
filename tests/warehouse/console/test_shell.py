"""`roundhouse sql` on a real terminal: a session, its commands, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tests.terminal import Terminal, roundhouse_on_a_terminal
from tests.warehouse.builder import small_warehouse
from warehouse.console.completion import SqlCompleter
from warehouse.console.session import Session
from warehouse.console.shell import Shell, is_complete

# Billions of rows that cannot be counted without being made.
_ENDLESS = "select sum(hash(a)) from range(1000000000000) as t (a)"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_warehouse(tmp_path_factory.mktemp("shell") / "warehouse")


@pytest.fixture(scope="module")
def session(root: Path) -> Session:
    return Session(root)


@pytest.fixture
def terminal(root: Path, tmp_path: Path) -> Iterator[Terminal]:
    with roundhouse_on_a_terminal("sql", str(root), cache=tmp_path / "cache") as shown:
        shown.wait_for("roundhouse>")
        yield shown


# On the terminal


def test_a_session_from_the_first_statement_to_ctrl_d(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("select count(*) as n\r")
    terminal.wait_for("...")
    terminal.type("from rollouts;\r")
    assert " n\r\n10\r\n" in terminal.wait_for("(1 row)")
    terminal.wait_for("roundhouse>")

    terminal.type("copy rounds to 'x';\r")
    terminal.wait_for("copy is not allowed here")
    terminal.wait_for("roundhouse>")
    terminal.type("select broken;\r")
    terminal.wait_for("Binder Error")
    terminal.wait_for("roundhouse>")

    terminal.type("from toxicity_by_rou")
    terminal.wait_for("toxicity_by_rou")
    terminal.type("\t")
    terminal.wait_for("nd")
    terminal.type(";\r")
    terminal.wait_for("(2 rows)")
    terminal.wait_for("roundhouse>")
    terminal.type("\x04")
    assert terminal.wait_for_end() == 0
    assert "Traceback" not in terminal.shown

    history = tmp_path / "cache" / "sql_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+from toxicity_by_round;" in history.read_text().splitlines()


def test_ctrl_c_cancels_the_query_and_keeps_the_session(terminal: Terminal) -> None:
    terminal.type("create temp table mine as select 7 as kept;\r")
    terminal.wait_for("roundhouse>")
    for query in (f"{_ENDLESS};\r", f"create temp table endless as {_ENDLESS};\r"):
        terminal.type(query)
        terminal.wait_for_work(0.5)
        terminal.type("\x03")
        terminal.wait_for("cancelled")
        terminal.wait_for("roundhouse>")
    terminal.type("half a line\x03")
    terminal.wait_for("roundhouse>")
    terminal.type("select kept + 1 as still from mine;\r")
    terminal.wait_for("still")
    assert " 8\r\n" in terminal.wait_for("(1 row)")
    terminal.wait_for("roundhouse>")
    terminal.type(".quit\r")
    assert terminal.wait_for_end() == 0
    assert "Traceback" not in terminal.shown


def test_the_history_of_the_last_session_is_there(root: Path, tmp_path: Path) -> None:
    for keys in ("select 41 + 1;\r", "\x1b[A\r"):
        with roundhouse_on_a_terminal("sql", str(root), cache=tmp_path) as terminal:
            terminal.wait_for("roundhouse>")
            terminal.type(keys)
            assert "42" in terminal.wait_for("(1 row)")
            terminal.wait_for("roundhouse>")
            terminal.type("\x04")
            assert terminal.wait_for_end() == 0


@pytest.mark.parametrize("style", ["table", "csv", "parquet"])
def test_ctrl_c_ends_a_single_query_without_a_file(root: Path, tmp_path: Path, style: str) -> None:
    out = tmp_path / "out" / "a.parquet"
    to_file = ("--out", str(out)) if style == "parquet" else ()
    slow = "select i, hash(i) as h from range(1000000000000) as t (i)"
    query = _ENDLESS if style == "table" else slow
    with roundhouse_on_a_terminal(
        "sql", str(root), query, "--format", style, *to_file, cache=tmp_path / "cache"
    ) as terminal:
        if style == "csv":
            terminal.wait_for("i,h")
        elif style == "parquet":
            _wait_for_a_file(out.parent)
        else:
            terminal.wait_for_work(3)  # starting takes one
        terminal.type("\x03")
        assert terminal.wait_for_end() == 130, terminal.shown[-2000:]
        assert terminal.shown.rstrip().endswith("cancelled")
        assert "Traceback" not in terminal.shown
    if style == "parquet":
        assert list(out.parent.iterdir()) == []


def _wait_for_a_file(folder: Path) -> None:
    for _ in range(600):
        if folder.is_dir() and any(folder.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing was written to {folder}")


# Commands, without a terminal


def _said(shell: Shell, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    shell.take(text)
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_commands_answer(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(session)
    assert "one row per sampled completion" in _said(shell, ".tables", capsys)
    text = _said(shell, ".describe rollouts", capsys)
    assert text.startswith("rollouts: one row per sampled completion\nkey: rollout_id\n")
    assert "in nats" in text
    assert "sensitivity" in _said(shell, ".describe gold_confusion;", capsys)
    assert "what it holds" not in _said(shell, "describe rollouts;", capsys)
    assert "Ctrl-C" in _said(shell, ".help", capsys)
    assert _said(shell, ".format csv", capsys) == ""
    assert _said(shell, "select 1 as a;", capsys) == "a\n1\n"
    assert _said(shell, "select 1 as a; select 2 as b;", capsys) == "a\n1\nb\n2\n"


def test_wrong_commands_are_told_and_change_nothing(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(session)
    assert ".help lists them" in _said(shell, ".tabels", capsys)
    assert "takes one of table, long, csv, json" in _said(shell, ".format xml", capsys)
    assert ".output FILE.parquet" in _said(shell, ".format parquet", capsys)
    assert "where to?" in _said(shell, ".output", capsys)
    assert "of what?" in _said(shell, ".describe", capsys)
    assert "ghost: no such table" in _said(shell, ".describe ghost", capsys)
    assert "(1 row)" in _said(shell, "select 1;", capsys)


def test_output_takes_the_next_answer_only(
    session: Session, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(session)
    out = tmp_path / "a.parquet"
    _said(shell, f".output {out}", capsys)
    assert f"written to {out}" in _said(shell, "select 5 as a;", capsys)
    assert pq.read_table(out)["a"].to_pylist() == [5]
    assert "(1 row)" in _said(shell, "select 6 as a;", capsys)
    assert pq.read_table(out)["a"].to_pylist() == [5]
    inside = root / "rollouts" / "a.csv"
    assert "lies in the warehouse" in _said(shell, f".output {inside}", capsys)
    assert "(1 row)" in _said(shell, "select 7 as a;", capsys)
    assert not inside.exists()


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", True),
        (".tables", True),
        ("select 1", False),
        ("select 1;", True),
        ("select 1;  -- done", True),
        ("select 1 -- done;", False),
        ("select ';", False),
        ("select 'it''s;'", False),
        ("select 'it''s;';", True),
        ('select "a;b"', False),
        ("select 1 /* ; ", False),
        ("select 1 /* ; */ ;", True),
        ("select '/*';", True),
        ("select 1;\nselect 2", False),
    ],
)
def test_enter_runs_what_is_complete(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


# Completion


def _completions(session: Session, text: str) -> list[str]:
    found = SqlCompleter(session).get_completions(Document(text), CompleteEvent())
    return [completion.text for completion in found]


def test_tab_knows_tables_marts_columns_words_and_commands(session: Session) -> None:
    assert _completions(session, "from toxicity_by_r") == ["toxicity_by_round"]
    assert "rollouts" in _completions(session, "select * from ro")
    assert "commits" in _completions(session, "from com")
    assert "select" in _completions(session, "SEL")
    assert _completions(session, ".des") == [".describe"]
    assert _completions(session, ".describe gold_c") == ["gold_confusion"]
    assert _completions(session, ".format c") == ["csv"]


def test_columns_of_what_is_named_come_first(session: Session) -> None:
    assert _completions(session, "select behavior_l") == ["behavior_logprobs"]
    assert _completions(session, "from labels where sc")[:3] == [
        "score_logprobs",
        "score_raw",
        "score",
    ]
    columns = _completions(session, "select 1 from rewards as r join gold g on r.")
    assert columns[:2] == ["rollout_id", "recipe"]
    assert "annotator" not in columns
    assert "annotator" in _completions(session, "select 1 from rewards as r join gold g on g.")
    assert _completions(session, "select * from rounds where decided_b") == ["decided_by"]


def test_each_completion_says_what_it_is(session: Session) -> None:
    found = SqlCompleter(session).get_completions(Document("from rollou"), CompleteEvent())
    assert next(c.display_meta_text for c in found) == "one row per sampled completion"
