"""The audit console: every way out of the warehouse, or into it, that we know of is closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tests.warehouse.builder import small_warehouse
from warehouse.catalog.catalog import connect, lock_down
from warehouse.console.statements import ForbiddenStatement, reading_statements

Ask = Callable[[str], list[tuple[object, ...]]]


def _asker(root: str | Path) -> Ask:
    """What the console does with a text: every statement is looked at, then all are run."""
    con = connect(root)
    lock_down(con, root)

    def ask(text: str) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for statement in reading_statements(con, text):
            if statement.has_rows:
                rows = con.sql(statement.text).fetchall()
            else:
                con.execute(statement.text).fetchall()
        return rows

    return ask


@pytest.fixture(scope="module")
def ask(shared_warehouse: Path) -> Ask:
    """One session for all tests: what one of them would leave behind, the next would meet."""
    return _asker(shared_warehouse)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("select count(*) from rollouts;  -- how many?\n", [(10,)]),
        ("-- first\n/* second */ from toxicity_by_round select round order by round", [(0,), (1,)]),
        ("with a as materialized (select 1) from a union all by name select 2 as b", 2),
        (
            "with recursive n as (select 1 as i union all select i + 1 from n where i < 3) from n",
            3,
        ),
        ("from (values (1), (2)) as v (a) semi join rounds on a - 1 = round", 1),
        ("select [x * 2 for x in [1]], {'a': 1}, (select max(round) from rounds)", 1),
        ("pivot labels on status in ('ok') using count(*) group by labeler", 2),
        ("unpivot (select 1 as a, 2 as b) on a, b", 2),
        ("select round, row_number() over () from rollouts qualify 1 = 1 limit 3", 3),
        ("describe rollouts", 24),
        ("summarize rounds", 22),
        ("from (show tables)", 32),
        ("explain select 1", 1),
        ("explain (select 1)", 1),
        ("explain (format json) select 1", 1),
        ("explain analyze from rounds", 1),
        ("set variable r = (select max(round) from rollouts); select getvariable('r')", [(1,)]),
        ("create temp view worst as from labels; from worst", 10),
        ("create or replace temp table \"mine\" as select 'as copy' as a; from mine", 1),
        ("create temporary view twice (a) as (select 1); from twice", [(1,)]),
        ("select ';' as a; select 'copy x to y' as b", [("copy x to y",)]),
    ],
)
def test_what_reads_is_answered(ask: Ask, text: str, rows: object) -> None:
    answer = ask(text)
    if isinstance(rows, int):
        # Marts may be added: the tables shown are at least these.
        assert len(answer) == rows or (text == "from (show tables)" and len(answer) > rows)
    else:
        assert answer == rows


@pytest.mark.parametrize(
    "text",
    [
        "copy rounds to '{inside}'",
        "COPY (select 1) TO '{inside}' (format parquet)",
        "copy rounds from '{secret}'",
        "explain analyze copy rounds to '{inside}'",
        "explain (analyze) copy rounds to '{inside}'",
        "explain /* */ analyze copy rounds to '{inside}'",
        "with c as (copy rounds to '{inside}') from c",
        "select (with c as (copy rounds to '{inside}') select count(*) from c)",
        "from rounds where exists (with c as (copy rounds to '{inside}') from c)",
        "describe (with c as (copy rounds to '{inside}') from c)",
        "explain analyze with c as (copy rounds to '{inside}') from c",
        "set variable a = (with c as (copy rounds to '{inside}') select count(*) from c)",
        "create temp table t as with c as (copy rounds to '{inside}') from c",
        "create temp view v (\") as select 1 --\") as with c as (copy rounds to '{inside}') from c",
        "with i as (insert into empty.gold select * from gold returning *) from i",
        "from query('with c as (copy rounds to ''{inside}'') from c')",
        "from json_execute_serialized_sql(json_serialize_sql('select 1'))",
        "select 1; copy rounds to '{inside}'",
        "export database '{inside}'",
        "import database '{inside}'",
        "attach '{inside}' as other",
        "attach '{secret}' as other (read_only)",
        "use memory.empty",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set allowed_directories = ['/']",
        "set threads = 1",
        "reset lock_configuration",
        "pragma enable_profiling",
        "call enable_logging(storage = 'file', storage_path = '{inside}')",
        "from enable_logging(storage = 'file', storage_path = '{inside}')",
        "from arrow_scan(1, 2, 3)",
        "from ARROW_SCAN(1, 2, 3)",
        "from pandas_scan(1)",
        "create view v as select 1",
        "create table t (a integer)",
        "create or replace view rollouts as select 1",
        "create temp view rollouts as select 1",
        'create temp view "Toxicity_By_Round" as select 1',
        "create temp macro m() as table with c as (copy rounds to '{inside}') from c",
        "create secret (type s3)",
        "drop view rollouts",
        "alter view rollouts rename to mine",
        "comment on view rollouts is 'mine'",
        "insert into empty.gold values (1)",
        "update empty.gold set score = 1",
        "delete from empty.gold",
        "prepare p as copy rounds to '{inside}'",
        "execute p",
        "begin",
        "checkpoint",
        "vacuum",
        "pivot rollouts on purpose",
    ],
)
def test_what_does_more_than_read_is_refused_before_it_runs(
    ask: Ask, shared_warehouse: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    inside = shared_warehouse / "rounds" / "mine"
    with pytest.raises(ForbiddenStatement):
        ask(text.format(inside=inside, secret=tmp_path / "secret.csv"))
    assert not inside.exists()
    assert ask("select count(*) from rollouts") == [(10,)]


@pytest.mark.parametrize(
    "text",
    [
        "from '{secret}'",
        "from read_csv('{secret}')",
        "from read_text('{secret}')",
        "from read_blob('{secret}')",
        "from read_text('{root}/../secret.csv')",
        "from read_text('{root}/rollouts/../../secret.csv')",
        "from sniff_csv('{secret}')",
        "from read_parquet('{secret}')",
        "from parquet_metadata('{secret}')",
        "from glob('{root}/../*')",
        "from glob('/*')",
        "from read_text('/proc/self/environ')",
        "from read_text('http://127.0.0.1:9/x')",
        "from read_text('https://example.org/x')",
        "from read_parquet('s3://bucket/key')",
        "from duckdb_secrets()",
        "from my_variable",
    ],
)
def test_nothing_outside_is_in_reach(
    ask: Ask, shared_warehouse: Path, tmp_path: Path, text: str
) -> None:
    (shared_warehouse.parent / "secret.csv").write_text("a\n1\n")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    my_variable = pa.table({"a": [1]})  # a variable that DuckDB would find by its name
    with pytest.raises((duckdb.Error, ForbiddenStatement)):
        ask(text.format(root=shared_warehouse, secret=tmp_path / "secret.csv"))
    assert my_variable.num_rows == 1


def test_nothing_runs_when_one_statement_of_several_is_refused(ask: Ask) -> None:
    with pytest.raises(ForbiddenStatement, match="copy is not allowed here"):
        ask("set variable unset = 1; copy rounds to 'x'")
    assert ask("select getvariable('unset')") == [(None,)]


def test_a_refusal_says_what_is_allowed(ask: Ask) -> None:
    with pytest.raises(ForbiddenStatement, match=r"attach .* only reads \(select, describe"):
        ask("attach 'x'")
    with pytest.raises(ForbiddenStatement, match="name the values: pivot"):
        ask("pivot rounds on status")
    with pytest.raises(ForbiddenStatement, match="rounds is a name of the warehouse"):
        ask("create temp view rounds as select 1")


@pytest.mark.parametrize("spelled", ["{name}", "{name}/", "./{name}", "../{parent}/{name}"])
def test_a_relative_folder_is_locked_like_an_absolute_one(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    monkeypatch.chdir(warehouse.parent)
    (warehouse.parent / "secret.csv").write_text("a\n1\n")
    ask = _asker(spelled.format(name=warehouse.name, parent=warehouse.parent.name))
    assert ask("select count(*) from rollouts") == [(10,)]
    with pytest.raises(duckdb.PermissionException):
        ask("from 'secret.csv'")
    monkeypatch.chdir(warehouse)
    inside = _asker(".")
    assert inside("select count(*) from rollouts") == [(10,)]
    with pytest.raises(duckdb.PermissionException):
        inside(f"from '..{os.sep}secret.csv'")


def test_on_s3_the_rows_are_there_and_no_file_is(s3_root: str, tmp_path: Path) -> None:
    small_warehouse(s3_root)  # type: ignore[arg-type]
    (tmp_path / "secret.csv").write_text("a\n1\n")
    ask = _asker(s3_root)
    assert ask("select count(*) from rollouts") == [(10,)]
    assert ask("select count(*) from toxicity_by_round") == [(2,)]
    for text in (f"from '{tmp_path}/secret.csv'", "from 's3://warehouses/x.parquet'"):
        with pytest.raises(duckdb.Error):
            ask(text)
    with pytest.raises(ForbiddenStatement):
        ask(f"copy rounds to '{tmp_path}/x.csv'")
