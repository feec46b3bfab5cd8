"""Warehouses of other schema versions: an older one opens and is added to, a newer one is refused.

`old_warehouse_v1` was written by the code of schema version 1 (make_old_warehouse.py): it has no
labels.is_cached, labels.is_consistent and rounds.decided_*.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from tests.warehouse.builder import label, publish_rows, rollout
from warehouse.catalog.catalog import connect, load_query, query_names
from warehouse.errors import WarehouseError
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.reading import read_table
from warehouse.publish import publish
from warehouse.report.report import write_report
from warehouse.schemas import SCHEMA_VERSION, TABLES
from warehouse.store import open_store

OLD = Path(__file__).parent / "old_warehouse_v1"
NEW_COLUMNS = [
    ("labels", ["is_cached", "is_consistent"]),
    ("rounds", ["decided_by", "decided_why", "decided_at"]),
]


@pytest.fixture
def old_root(store_root: str) -> str:
    """The old warehouse, copied to each store in turn."""
    store = open_store(store_root)
    for path in sorted(path for path in OLD.rglob("*") if path.is_file()):
        store.put_file(path.relative_to(OLD).as_posix(), path)
    return store_root


def test_it_was_written_by_version_1() -> None:
    files = Ledger(open_store(OLD, read_only=True)).files()
    assert {file.schema_version for file in files} == {1} != {SCHEMA_VERSION}
    assert {file.table for file in files} == {"prompts", "rollouts", "labels", "rewards", "rounds"}


def test_every_table_and_query_answers(old_root: str) -> None:
    con = connect(old_root)
    for name, table in TABLES.items():
        assert con.sql(f"from {name}").columns == table.schema.names
    for name in query_names():
        sql = load_query(name)
        con.sql(sql, params={"rollout": "0-t1-0"} if "$rollout" in sql else None).fetchall()
    rate = con.sql("select labeler, toxicity_rate, mean_score from toxicity_by_round").fetchall()
    assert rate == [("meter", 0.5, pytest.approx(2.1 / 4))]
    assert con.sql("select count(*) from rounds where decided_by is null").fetchall() == [(1,)]


@pytest.mark.parametrize(("table", "columns"), NEW_COLUMNS)
def test_columns_that_it_lacks_are_null(old_root: str, table: str, columns: list[str]) -> None:
    rows = read_table(old_root, table)
    assert rows.schema.equals(TABLES[table].schema)
    assert rows.num_rows > 0
    assert {rows[name].null_count for name in columns} == {rows.num_rows}


def test_it_takes_new_rows_beside_the_old(old_root: str) -> None:
    """The first file has fewer columns: by position, theirs would win and drop the new ones."""
    row = rollout(1, "p1")
    publish_rows(old_root, "round=1/eval-rollouts", 1, rollouts=[row])
    publish_rows(old_root, "round=1/labels", 1, labels=[label(row, 0.7, is_cached=True)])
    files = Ledger(open_store(old_root, read_only=True)).files(table="labels")
    assert [file.schema_version for file in files] == [1, SCHEMA_VERSION]
    con = connect(old_root)
    query = "select round, is_cached, count(*) from labels group by all order by all"
    assert con.sql(query).fetchall() == [(0, None, 6), (1, True, 1)]
    cached = read_table(old_root, "labels", columns=["is_cached"])["is_cached"]
    assert cached.to_pylist() == [None] * 6 + [True]
    rates = con.sql("select round, toxicity_rate from toxicity_by_round").fetchall()
    assert rates == [(0, 0.5), (1, 1.0)]


def test_a_report_is_written(tmp_path: Path) -> None:
    assert "meter" in write_report(OLD, tmp_path / "report.html").read_text()


def test_old_prompts_are_not_published_twice(tmp_path: Path) -> None:
    root = Path(shutil.copytree(OLD, tmp_path / "old"))
    commit = publish(root, "prompts again", {"prompts": read_table(root, "prompts")})
    assert commit.add == ()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Also for writing, and before a file is opened: its columns may mean anything."""
    root = Path(shutil.copytree(OLD, tmp_path / "newer"))
    last = root / "_ledger" / "0000000004.json"
    commit = json.loads(last.read_text())
    commit["add"][0]["schema_version"] = 99
    last.write_text(json.dumps(commit))
    reason = (
        f"0000000004.json holds files of schema version 99, this roundhouse reads up to "
        f"{SCHEMA_VERSION}; update roundhouse"
    )
    with pytest.raises(WarehouseError, match=reason):
        connect(root)
    with pytest.raises(WarehouseError, match=reason):
        read_table(root, "prompts")
    with pytest.raises(WarehouseError, match=reason):
        publish(root, "more", {"prompts": pa.table({})})
