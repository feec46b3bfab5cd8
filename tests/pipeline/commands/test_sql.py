"""`roundhouse sql`, `query` and `describe` off a terminal: formats, files, pipes, versions."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.terminal import ROOT
from tests.warehouse.builder import publish_rows, rollout, small_warehouse
from warehouse.console.answers import print_answer, write_answer
from warehouse.console.queries import OutputError, Queries
from warehouse.console.session import Session
from warehouse.console.table import table_text
from warehouse.errors import WarehouseError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_warehouse(tmp_path_factory.mktemp("sql") / "warehouse")


@pytest.fixture(scope="module")
def session(root: Path) -> Session:
    return Session(root)


def roundhouse(*arguments: object, stdin: str | None = None, code: int = 0) -> str:
    """What the command prints, on standard output; on standard error where it fails."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else " ".join(done.output.replace("│", " ").split())


_VALUES = """
select 1 as n, 0.1::float as f, null as nothing, '' as empty, 'a,"b' as text, [1, null] as list,
    {'a': {'b': 2}} as struct, map {'x': 0.5} as map,
    timestamptz '2026-01-01 02:00:00+02' as at, 1 as n, 'nan'::double as f64
"""


# Formats


def test_csv_holds_utc_times_and_json_for_what_is_nested(root: Path) -> None:
    header, row = csv.reader(io.StringIO(roundhouse("sql", root, _VALUES, "--format", "csv")))
    assert header[:4] == ["n", "f", "nothing", "empty"]
    assert header[9] == "n"  # two columns of one name are two columns
    assert row == [
        *("1", "0.1", "", "", 'a,"b', "[1,null]", '{"a":{"b":2}}', '{"x":0.5}'),
        *("2026-01-01 00:00:00+00", "1", "nan"),
    ]


def test_json_is_valid_whatever_the_numbers(root: Path) -> None:
    text = roundhouse("sql", root, _VALUES, "--format", "json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (row,) = json.loads(text, parse_constant=refuse)
    assert row["list"] == [1, None]
    assert row["map"] == {"x": 0.5}
    assert row["nothing"] is None
    assert row["f64"] is None
    two = json.loads(roundhouse("sql", root, "from range(2) as t (i)", "--format", "json"))
    assert two == [{"i": 0}, {"i": 1}]
    assert roundhouse("sql", root, "from rounds limit 0", "--format", "json") == "[]\n"


def test_a_text_that_only_looks_like_nan_stays(root: Path) -> None:
    text = roundhouse("sql", root, "select 'NaN and inf' as a", "--format", "json")
    assert json.loads(text) == [{"a": "NaN and inf"}]


def test_parquet_keeps_types_and_order(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "rollouts.parquet"
    query = "select * from rollouts order by rollout_id desc"
    assert roundhouse("sql", root, query, "--out", out) == ""
    table = pq.read_table(out)
    assert table["rollout_id"].to_pylist() == sorted(table["rollout_id"].to_pylist(), reverse=True)
    assert str(table.schema.field("completion_ids").type).startswith("list<")
    assert table.num_rows == 10
    assert list(out.parent.iterdir()) == [out]
    roundhouse("sql", root, "from rounds where false", "--out", out)
    assert pq.read_table(out).num_rows == 0


def test_large_answers_pass_through_in_order(session: Session, tmp_path: Path) -> None:
    relation = session.con.sql("select i, i % 7 as k from range(100000) as t (i)")
    for suffix in ("csv", "json", "parquet"):
        write_answer(session.queries, relation, suffix, tmp_path / f"all.{suffix}")
    with (tmp_path / "all.csv").open() as file:
        assert [row["i"] for row in csv.DictReader(file)] == [str(i) for i in range(100_000)]
    rows = json.loads((tmp_path / "all.json").read_text())
    assert [row["k"] for row in rows] == [i % 7 for i in range(100_000)]
    assert pq.read_table(tmp_path / "all.parquet")["i"].to_pylist() == list(range(100_000))


def test_the_suffix_says_the_format_and_format_has_the_last_word(
    root: Path, tmp_path: Path
) -> None:
    roundhouse("sql", root, "select 1 as a", "--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    roundhouse("sql", root, "select 1 as a", "--out", tmp_path / "a.txt", "--format", "csv")
    assert (tmp_path / "a.txt").read_text() == "a\n1\n"
    roundhouse("sql", root, "select 1 as a", "--out", tmp_path / "a.md")
    assert (tmp_path / "a.md").read_text() == "a\n1\n(1 row)\n"


# Tables


def _table(session: Session, query: str, *, is_terminal: bool = False) -> str:
    relation = session.con.sql(query)
    return table_text(session.queries, relation, is_long=False, is_terminal=is_terminal)


def test_a_table_names_null_and_counts(session: Session) -> None:
    text = _table(session, "select null as a, '[red]' as b union all select 2.5::double, null")
    assert text == "   a  b\nNULL  [red]\n 2.5  NULL\n(2 rows)\n"


def test_long_lists_are_shortened_and_their_length_is_said(session: Session) -> None:
    assert "[0, 1, 2, 3, 4, 5, … 100 values]" in _table(session, "select range(100) as l")


def test_large_numbers_keep_their_digits(session: Session) -> None:
    text = _table(session, "select 1234567.89 as a, 0.123456 as b, 'nan'::float as c, 2e300 as d")
    assert text.splitlines()[1].split() == ["1234567.89", "0.123456", "nan", "2e+300"]
    text = _table(session, "select 1234567.89::double as a, 0.123456::double as b")
    assert text.splitlines()[1].split() == ["1234567.9", "0.1235"]


def test_what_does_not_fit_a_terminal_stands_one_value_a_line(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = _table(session, "from rollouts order by rollout_id", is_terminal=True)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("-- 1 ---") == 1
    assert "      rollout_id: 0-p1-0\n" in text
    assert text.endswith("(10 rows)\n")
    few = _table(session, "select rollout_id, round from rollouts", is_terminal=True)
    assert few.splitlines()[0].split() == ["rollout_id", "round"]


def test_a_terminal_is_shown_the_first_rows_and_told_so(session: Session) -> None:
    text = _table(session, "from range(1000)", is_terminal=True)
    assert len(text.splitlines()) == 202
    assert text.endswith("(the first 200 rows; --format csv, or a file, has all)\n")
    assert len(_table(session, "from range(1000)").splitlines()) == 1002


def test_control_characters_are_spelled(session: Session) -> None:
    text = _table(session, r"select E'\x1b[2Jgone\x07' || chr(155) as a", is_terminal=True)
    assert r"\x1b[2Jgone\x07\x9b" in text
    assert "\x1b" not in text


def test_a_plan_is_printed_as_it_is(session: Session) -> None:
    text = _table(session, "explain select count(*) from rollouts")
    assert "physical_plan" not in text
    assert text.splitlines()[0].startswith("╭")


# Statements, files, versions


def test_statements_run_in_order_from_a_pipe_or_an_argument(root: Path) -> None:
    text = "create temp view two as select 2 as a; select 1 as a; from two; set variable x = 1"
    for printed in (
        roundhouse("sql", root, text, "--format", "csv"),
        roundhouse("sql", root, "--format", "csv", stdin=text),
    ):
        assert printed == "a\n1\na\n2\n"


def test_one_file_takes_one_answer(root: Path, tmp_path: Path) -> None:
    for text, count in (("select 1; select 2", 2), ("set variable a = 1", 0)):
        said = roundhouse("sql", root, text, "--out", tmp_path / "a.csv", code=2)
        assert f"this gives {count}" in said
    assert not (tmp_path / "a.csv").exists()


def test_wrong_use_is_named(root: Path, tmp_path: Path) -> None:
    assert "expected one of table, long" in roundhouse(
        "sql", root, "select 1", "--format", "xml", code=2
    )
    assert "--out FILE" in roundhouse("sql", root, "select 1", "--format", "parquet", code=2)
    assert "name a file" in roundhouse("sql", root, "select 1", "--out", tmp_path, code=2)


def test_the_files_of_the_warehouse_are_not_overwritten(root: Path) -> None:
    before = sorted(root.rglob("*"))
    (live,) = (path for path in before if path.is_file() and path.parent.name == "prompts")
    data = live.read_bytes()
    for name in (live, root / "_ledger" / "0000000099.json", root / "new" / "a.csv"):
        said = roundhouse("sql", root, "select 1", "--out", name, "--format", "csv", code=2)
        assert "lies in the warehouse" in said
    assert live.read_bytes() == data
    assert sorted(root.rglob("*")) == before


def test_a_query_that_fails_leaves_the_file_as_it_was(session: Session, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("before")
    late = session.con.sql(
        "select case when i = 90000 then error('late') else i::varchar end as a "
        "from range(100000) as t (i)"
    )
    for style in ("csv", "json", "parquet", "table"):
        with pytest.raises(duckdb.Error, match="late"):
            write_answer(session.queries, late, style, out)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]
    twice = session.con.sql("select 1 as a, 2 as a")
    with pytest.raises(OutputError, match="two columns are called a"):
        write_answer(session.queries, twice, "parquet", tmp_path / "b.parquet")
    assert list(tmp_path.iterdir()) == [out]


def test_describe_explains_tables_marts_questions_and_itself(root: Path) -> None:
    everything = json.loads(roundhouse("describe", root, "--format", "json"))
    kinds = {row["name"]: row["kind"] for row in everything}
    assert kinds["rollouts"] == "table"
    assert kinds["commits"] == "ledger"
    assert kinds["toxicity_by_round"] == "mart"
    assert all(row["description"] for row in everything)
    text = roundhouse("describe", root, "rewards")
    assert text.startswith("rewards: one row per rollout and reward recipe\nkey: rollout_id")
    assert "reward           FLOAT" in text
    text = roundhouse("describe", root, "toxicity_by_round")
    assert "A completion is toxic at a score of at least .5." in text
    assert "expected_max" in roundhouse("describe", root, "toxicity_by_round")
    assert "true_yes" in roundhouse("describe", root, "gold_confusion")
    assert "contribution" in roundhouse("describe", root, "why")
    columns = roundhouse("sql", root, "describe rounds", "--format", "csv").splitlines()
    assert columns[0] == "column_name,column_type,description"
    assert len(columns) == 23
    unknown = CliRunner().invoke(app, ["describe", str(root), "ghost"])
    assert str(unknown.exception) == "ghost: no such table, mart or question"


def test_query_lists_answers_and_writes(root: Path, tmp_path: Path) -> None:
    assert "toxicity_by_round" in roundhouse("query", root)
    rows = json.loads(roundhouse("query", root, "toxicity_by_round", "--format", "json"))
    assert [row["round"] for row in rows] == [0, 1]
    rows = roundhouse("query", root, "toxicity_by_round", "--round", 1, "--format", "csv")
    assert len(rows.splitlines()) == 2
    roundhouse("query", root, "scored_rollouts", "--out", tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 10
    why = roundhouse("query", root, "why", "--rollout", "0-t1-1")
    assert why.startswith("-- 1 ---")
    assert "hate" in why


@pytest.mark.parametrize(
    "count",
    [
        lambda root, *version: int(
            roundhouse("sql", root, "select count(*) as n from rollouts", "--format", "csv",
                       *version).splitlines()[1]
        ),
        lambda root, *version: len(
            json.loads(roundhouse("query", root, "scored_rollouts", "--format", "json", *version))
        ),
        lambda root, *version: roundhouse("status", root, *version).count("rollouts"),
        lambda root, *version: int("round=2" in roundhouse("status", root, *version)),
    ],
    ids=["sql", "query", "status", "status of the newest"],
)  # fmt: skip
def test_a_version_is_read_as_it_was(root: Path, tmp_path: Path, count: Callable[..., int]) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    head = Session(copy).version
    then = count(copy)
    publish_rows(copy, "round=2/eval-rollouts", 2, rollouts=[rollout(2, "p1"), rollout(2, "p2")])
    assert count(copy) != then
    assert count(copy, "--as-of", head) == then
    assert Session(copy, head).version == head


def test_describe_report_export_and_audit_take_a_version(root: Path, tmp_path: Path) -> None:
    """Version 0 holds the prompts alone."""
    roundhouse("describe", root, "rounds", "--as-of", 0)
    roundhouse("report", root, "--out", tmp_path / "a.html", "--as-of", 0)
    sft = ("export", root, "sft", "--out")
    assert "0 completions" in roundhouse(*sft, tmp_path / "a.jsonl", "--as-of", 0)
    assert "1 completions" in roundhouse(*sft, tmp_path / "b.jsonl")
    sample = ("audit", "sample", root, "--count", 8, "--out")
    early = CliRunner().invoke(app, [*map(str, sample), str(tmp_path / "a.csv"), "--as-of", "0"])
    assert isinstance(early.exception, WarehouseError)
    assert not (tmp_path / "a.csv").exists()
    assert "8 completions" in roundhouse(*sample, tmp_path / "b.csv")
    for command in (("describe", root), ("sql", root, "select 1"), ("status", root)):
        unknown = CliRunner().invoke(app, [*map(str, command), "--as-of", "99"])
        assert "no version 99; the last one is" in str(unknown.exception)


# Pipes and Ctrl-C, with real processes


def _process(*arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("style", ["csv", "json", "table"])
def test_a_reader_that_leaves_is_no_traceback(root: Path, style: str) -> None:
    # Nobody could wait for all rows of the first two, nor hold them: they come as they are found.
    count = 3_000 if style == "table" else 100_000_000_000
    query = f"select i, repeat('x', 100) as x from range({count}) as t (i)"
    with _process("sql", root, query, "--format", style) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141


def test_print_answer_ends_with_a_flush(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    print_answer(Queries(session.con), session.con.sql("select 1 as a"), "csv")
    assert capsys.readouterr().out == "a\n1\n"
