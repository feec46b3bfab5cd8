"""The sums of hold-out scores that publish stores: always those of the labels that are live."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.warehouse.builder import NOON, Row, holdout, label, publish_rows, rollout, rows_of
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.ledger.data_files import put_rows
from warehouse.ledger.ledger import Ledger
from warehouse.publish import PublishRefused, publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

SUMS = ("prompt_id", "labeler", "completions", "high_count", "score_sum", "score_squares")


def sums(root: str | Path, as_of: int | None = None) -> list[tuple[object, ...]]:
    rows = read_table(root, "prompt_sums", as_of=as_of).to_pylist()
    return sorted(tuple(row[name] for name in SUMS) for row in rows)


def live_paths(root: str | Path, table: str) -> list[str]:
    return [file.path for file in Ledger(open_store(root)).files(table=table)]


def test_labels_are_published_with_the_sums_of_their_prompts(store_root: str) -> None:
    rollouts = [rollout(0, p, k) for p in ("p1", "p2") for k in (0, 1)]
    train = rollout(0, "t1", purpose="train")
    scores = [0.5, 0.25, None, None, 1.0]
    labels = [label(row, score) for row, score in zip([*rollouts, train], scores, strict=True)]
    publish_rows(store_root, "key", 0, rollouts=[*rollouts, train], labels=labels)
    assert sums(store_root) == [
        ("p1", "meter", 2, 1, 0.75, 0.3125),
        ("p2", "meter", 0, 0, None, None),
    ]
    (commit,) = Ledger(open_store(store_root)).commits()
    assert {file.table for file in commit.add} == {"rollouts", "labels", "prompt_sums"}


def test_train_labels_have_none(tmp_path: Path) -> None:
    train = rollout(0, "t1", purpose="train")
    publish_rows(tmp_path, "key", 0, rollouts=[train], labels=[label(train, 0.5)])
    assert live_paths(tmp_path, "prompt_sums") == []


def test_labels_in_several_commits_have_one_sum(tmp_path: Path) -> None:
    """The second score of a completion makes a mean; the other labeler of the file stays."""
    (of,) = rows = [rollout(0, "p1")]
    publish_rows(tmp_path, "rollouts", 0, rollouts=rows)
    publish_rows(tmp_path, "one", 0, labels=[label(of, 0.25), label(of, 1.0, "other")])
    publish_rows(tmp_path, "two", 0, labels=[label(of, 0.5, sample_index=1)])
    other = ("p1", "other", 1, 1, 1.0, 1.0)
    assert sums(tmp_path) == [("p1", "meter", 1, 0, 0.375, 0.140625), other]
    assert sums(tmp_path, as_of=1) == [("p1", "meter", 1, 0, 0.25, 0.0625), other]


def test_amended_labels_have_the_sums_of_what_is_left(tmp_path: Path) -> None:
    (of,) = holdout(tmp_path, {"p1": (None,)})
    assert sums(tmp_path) == [("p1", "meter", 0, 0, None, None)]
    rows = [label(of, None, is_final=False), label(of, 0.5, attempt=2)]
    labels = {"labels": table_from_rows("labels", rows)}
    publish(tmp_path, "again", labels, round=0, remove=live_paths(tmp_path, "labels"))
    assert sums(tmp_path) == [("p1", "meter", 1, 1, 0.5, 0.25)]
    assert len(live_paths(tmp_path, "prompt_sums")) == 1


def test_a_revision_beside_another_has_sums_of_its_own(tmp_path: Path) -> None:
    (of,) = holdout(tmp_path, {"p1": (0.25,)})
    late = label(of, 0.5, revision="r2", labeled_at=NOON + timedelta(hours=1))
    publish_rows(tmp_path, "r2", 0, labels=[late])
    assert [row[4] for row in sums(tmp_path)] == [0.25, 0.5]
    assert rows_of(connect(tmp_path), "select score_sum from prompt_scores") == [{"score_sum": 0.5}]


def test_imported_completions_have_sums_and_no_toxicity_by_round(tmp_path: Path) -> None:
    of = rollout(0, "p1") | {"round": None}
    publish_rows(tmp_path, "import", rollouts=[of], labels=[label(of, 0.5)])
    con = connect(tmp_path)
    assert rows_of(con, "select round, score_sum from prompt_sums") == [
        {"round": None, "score_sum": 0.5}
    ]
    assert rows_of(con, "from toxicity_by_round") == []


# The check that they are those of the labels


@pytest.mark.parametrize(
    "wrong",
    [
        {"completions": 3},
        {"high_count": 0},
        {"score_sum": 0.75},
        {"score_squares": 0.5},
        {"score_max": 0.6},
        {"score_sum": None},
        {"prompt_id": "p2"},
        {"revision": "r2"},
    ],
)
def test_other_sums_than_those_of_the_labels_are_refused(tmp_path: Path, wrong: Row) -> None:
    holdout(tmp_path, {"p1": (0.5, 0.0)})
    (row,) = read_table(tmp_path, "prompt_sums").to_pylist()
    remove = live_paths(tmp_path, "prompt_sums")
    fresh = {"prompt_sums": table_from_rows("prompt_sums", [row | wrong])}
    with pytest.raises(PublishRefused, match="check sums_of_labels found bad rows"):
        publish(tmp_path, "wrong", fresh, round=0, remove=remove)
    right = {"prompt_sums": table_from_rows("prompt_sums", [row])}
    publish(tmp_path, "right", right, round=0, remove=remove)


def test_labels_without_sums_are_found_by_the_next_publish(tmp_path: Path) -> None:
    (of,) = holdout(tmp_path, {"p1": (0.5,)})
    store = open_store(tmp_path)
    rows = table_from_rows("labels", [label(of, 0.5, "planted")])
    Ledger(store).append("planted", put_rows(store, "labels", rows))
    with pytest.raises(PublishRefused, match=r"sums_of_labels.*\n.*'labeler': 'planted'"):
        publish_rows(tmp_path, "more", 0, labels=[label(of, 0.5, "other")])
