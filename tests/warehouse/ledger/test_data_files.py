"""Data files: cut at row groups, put without a copy, named so that a query opens few of them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import NOON, label, publish_rows, rollout, small_warehouse
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.ledger import data_files
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.data_files import put_rows
from warehouse.ledger.ledger import Ledger
from warehouse.publish import PublishRefused, publish
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store


def many_rollouts(count: int) -> pa.Table:
    """Rows of one round in the order of the table, in row groups of 16,384."""
    one = table_from_rows("rollouts", [rollout(0, "p1")])
    rows = pa.concat_tables([one] * count).combine_chunks()
    names = pa.array([f"0-p1-{number:08d}" for number in range(count)])
    seeds = pa.array(np.random.default_rng(0).integers(0, 2**63, count))  # does not compress
    number = rows.schema.get_field_index("seed")
    rows = rows.set_column(number, rows.schema.field(number), seeds)
    return rows.set_column(0, rows.schema.field(0), names)


# Cutting


def test_a_larger_table_becomes_files_cut_between_row_groups(store_root: str) -> None:
    rows = many_rollouts(16_384 * 3 + 5)
    store = open_store(store_root)
    (whole,) = put_rows(store, "rollouts", rows)
    files = put_rows(store, "rollouts", rows, max_bytes=whole.bytes * 3 // 4)
    assert [file.rows for file in files] == [16_384 * 2, 16_384 + 5]
    assert all(file.bytes <= whole.bytes * 3 // 4 for file in files)
    Ledger(store).append("key", files)
    assert read_table(store_root, "rollouts").equals(rows)


def test_a_file_has_one_row_group_however_small_the_limit(tmp_path: Path) -> None:
    files = put_rows(open_store(tmp_path), "rollouts", many_rollouts(16_385), max_bytes=1)
    assert [file.rows for file in files] == [16_384, 1]


def test_publish_cuts_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_files.MAX_BYTES == 256 * 2**20
    cut = data_files.put_rows
    monkeypatch.setattr("warehouse.publish.put_rows", functools.partial(cut, max_bytes=1))
    publish(tmp_path, "key", {"rollouts": many_rollouts(16_385)}, round=0)
    files = Ledger(open_store(tmp_path)).files()
    assert [(file.round, file.rows) for file in files] == [(0, 16_384), (0, 1)]
    assert connect(tmp_path).sql("select count(*) from rollouts").fetchall() == [(16_385,)]


# Putting


def test_a_file_of_ours_is_linked_and_readable_by_all(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ours = tmp_path / ".put-x"
    ours.write_bytes(b"data")
    ours.chmod(0o600)
    store.put_file("a/b", ours)
    assert (tmp_path / "a" / "b").samefile(ours)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o644


def test_a_file_of_somebody_else_is_copied(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"data")
    store = open_store(tmp_path / "warehouse")
    store.put_file("a", theirs)
    theirs.write_bytes(b"changed")
    assert store.get("a") == b"data"


def test_publish_leaves_no_temporary_file(tmp_path: Path) -> None:
    small_warehouse(tmp_path)
    assert not list(tmp_path.rglob(".put-*"))


# Folders


def test_labels_lie_in_a_folder_of_their_purpose(tmp_path: Path) -> None:
    small_warehouse(tmp_path)
    folders = {
        str(Path(file.path).parent) for file in Ledger(open_store(tmp_path)).files(table="labels")
    }
    assert folders == {
        "labels/round=0/purpose=holdout",
        "labels/round=0/purpose=train",
        "labels/round=1/purpose=holdout",
    }


def test_files_of_another_round_or_purpose_are_not_opened(tmp_path: Path) -> None:
    small_warehouse(tmp_path)
    for file in Ledger(open_store(tmp_path)).files(table="labels"):
        if not file.path.startswith("labels/round=0/purpose=holdout/"):
            (tmp_path / file.path).write_bytes(b"not a Parquet file")
    con = connect(tmp_path)
    query = "select count(*) from labels where round = 0 and purpose = 'holdout'"
    assert con.sql(query).fetchall() == [(4,)]


def test_a_warehouse_below_a_folder_with_an_equals_sign_has_no_further_column(
    tmp_path: Path,
) -> None:
    root = small_warehouse(tmp_path / "env=prod")
    con = connect(root)
    assert con.sql("from labels").columns == TABLES["labels"].schema.names
    assert con.sql("select count(*) from labels where round = 1").fetchall() == [(4,)]


def test_the_older_of_two_schema_versions_does_not_decide_the_columns(tmp_path: Path) -> None:
    """DuckDB goes by the first file of a list; here that is the one that lacks columns."""
    old = table_from_rows("rollouts", [rollout(0, "p1")]).drop_columns(["dtype"])
    place = tmp_path / "rollouts" / "round=0" / "a.parquet"
    place.parent.mkdir(parents=True)
    pq.write_table(old, place)
    file = LiveFile("rollouts", 0, "rollouts/round=0/a.parquet", 1, 0, "", schema_version=0)
    Ledger(open_store(tmp_path)).append("old", [file])
    publish_rows(tmp_path, "new", 1, rollouts=[rollout(1, "p1", dtype="float32")])
    rows = connect(tmp_path).sql("select round, dtype from rollouts order by round").fetchall()
    assert rows == [(0, None), (1, "float32")]


def test_a_connection_to_some_rounds_shows_only_these(tmp_path: Path) -> None:
    con = connect(small_warehouse(tmp_path), rounds=[1])
    assert con.sql("select distinct round from rollouts").fetchall() == [(1,)]
    assert con.sql("select round from toxicity_by_round").fetchall() == [(1,)]
    assert con.sql("select count(*) from prompts").fetchall() == [(3,)]


# The purpose of a label


def test_publish_gives_a_label_the_purpose_of_its_rollout(store_root: str) -> None:
    of = [rollout(0, "p1"), rollout(0, "t1", purpose="train")]
    publish_rows(store_root, "key", 0, rollouts=of[:1])
    publish_rows(store_root, "both", 0, rollouts=of[1:], labels=[label(row, 0.5) for row in of])
    rows = read_table(store_root, "labels", columns=["rollout_id", "purpose"]).to_pylist()
    assert {row["rollout_id"]: row["purpose"] for row in rows} == {
        "0-p1-0": "holdout",
        "0-t1-0": "train",
    }


def test_a_label_with_another_purpose_than_its_rollout_is_refused(tmp_path: Path) -> None:
    of = rollout(0, "p1")
    with pytest.raises(PublishRefused, match=r"orphan_labels.*\n.*'purpose': 'train'"):
        publish_rows(tmp_path, "k", 0, rollouts=[of], labels=[label(of, 0.5, purpose="train")])


def test_a_repeated_score_counts_once_in_toxicity_by_round(tmp_path: Path) -> None:
    """Sample 0 is scored .9 and .3, so .6 in the mean; the other prompt's once."""
    of = [rollout(0, "p1", 0), rollout(0, "p1", 1), rollout(0, "p2", 0)]
    labels = [
        label(of[0], 0.9),
        label(of[0], 0.3, sample_index=1),
        label(of[1], 0.2),
        label(of[2], 0.4),
    ]
    publish_rows(tmp_path, "key", 0, rollouts=of, labels=labels)
    query = "select prompts, completions, toxicity_rate, mean_score, expected_max, "
    query += "samples_per_prompt from toxicity_by_round"
    (row,) = connect(tmp_path).sql(query).fetchall()
    assert row == pytest.approx((2, 3, 1 / 3, 0.4, 0.5, 2))


def test_revisions_are_chosen_for_each_criterion(tmp_path: Path) -> None:
    """The newer revision measures toxicity only: the helpfulness of the older one still counts."""
    of = rollout(0, "p1")
    later = NOON.replace(hour=13)
    labels = [
        label(of, 0.9, "judge"),
        label(of, 0.8, "judge", criterion="helpfulness", sample_index=1),
        label(of, 0.1, "judge", revision="r2", labeled_at=later),
    ]
    publish_rows(tmp_path, "key", 0, rollouts=[of], labels=labels)
    query = "select criterion, score from current_labels order by criterion"
    assert connect(tmp_path).sql(query).fetchall() == [("helpfulness", 0.8), ("toxicity", 0.1)]
