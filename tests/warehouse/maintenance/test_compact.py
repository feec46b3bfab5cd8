"""compact: fewer files, the same rows, whoever asks and at whatever version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.warehouse.builder import label, publish_rows, rollout, small_warehouse
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.errors import Conflict, CorruptFile, WarehouseError
from warehouse.ledger.commits import Commit
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance import compaction
from warehouse.maintenance.compaction import compact
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.vacuum import vacuum
from warehouse.maintenance.verify import verify
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

ROLLOUTS, LABELS = "round=0/eval-rollouts", "round=0/eval-labels/meter@r1"


def amend(root: str | Path, sample: int = 7) -> None:
    """Prompts that had been refused are sampled and labelled after all: two amendments."""
    rows = [rollout(0, name, sample) for name in ("p1", "p2")]
    for key, table, added in [
        (ROLLOUTS, "rollouts", rows),
        (LABELS, "labels", [label(row, 0.3) for row in rows]),
    ]:
        publish(
            root,
            f"{key}/replay-{sample}",
            {table: table_from_rows(table, added)},
            round=0,
            meta={"amends": key},
            operation="replay",
        )


def paths(root: str | Path, **choice: object) -> list[str]:
    return [file.path for file in Ledger(open_store(root)).files(**choice)]


def test_what_is_published_while_it_looks_is_left_to_the_next(
    store_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_warehouse(store_root)
    amend(store_root)
    look = Ledger.commits

    def look_and_let_another_amend(self: Ledger, as_of: int | None = None) -> list[Commit]:
        seen = look(self, as_of)
        monkeypatch.setattr(Ledger, "commits", look)
        amend(store_root, 8)
        return seen

    monkeypatch.setattr(Ledger, "commits", look_and_let_another_amend)
    assert [(d.key, d.files) for d in compact(store_root)] == [(ROLLOUTS, 2), (LABELS, 2)]
    assert [(d.key, d.files) for d in compact(store_root)] == [(ROLLOUTS, 2), (LABELS, 2)]


def test_the_files_of_a_key_become_one_and_the_rows_stay(store_root: str) -> None:
    small_warehouse(store_root)
    amend(store_root)
    amend(store_root, 8)
    head = Ledger(open_store(store_root)).head()
    tables = ("rollouts", "labels")
    order = "select * from {} order by all"
    before = [connect(store_root).sql(order.format(t)).to_arrow_table() for t in tables]
    old = paths(store_root)

    planned = compact(store_root, dry_run=True)
    assert paths(store_root) == old
    done = compact(store_root)

    assert [(d.key, d.table, d.round, d.files, d.rows) for d in done] == [
        (ROLLOUTS, "rollouts", 0, 3, 8),
        (LABELS, "labels", 0, 3, 8),
    ]
    assert [d.version for d in done] == [head + 1, head + 2]
    assert [(p.key, p.files, p.version) for p in planned] == [(d.key, 3, None) for d in done]
    assert len(paths(store_root)) == len(old) - 4
    after = [connect(store_root).sql(order.format(t)).to_arrow_table() for t in tables]
    assert after == before
    assert connect(store_root, head).sql(order.format("labels")).to_arrow_table() == before[1]
    ids = read_table(store_root, "rollouts", keys=[ROLLOUTS])["rollout_id"].to_pylist()
    assert ids == sorted(ids)  # sorted as one file, and none of the train rollouts among them
    assert len(ids) == 8
    assert read_table(store_root, "labels", keys=[LABELS]).num_rows == 8
    assert compact(store_root) == []
    assert verify(store_root, all_versions=True).problems == ()


def test_work_of_different_keys_stays_apart(warehouse: Path) -> None:
    """Rollouts of round 0 are two keys' work, train and hold-out: the stages read them by key."""
    assert len(paths(warehouse, table="rollouts", rounds=[0])) == 2
    assert compact(warehouse) == []


def test_only_the_table_and_round_that_were_asked_for(warehouse: Path) -> None:
    amend(warehouse)
    assert compact(warehouse, rounds=[1]) == []
    assert [done.table for done in compact(warehouse, table="labels")] == ["labels"]
    assert [done.table for done in compact(warehouse, rounds=[0])] == ["rollouts"]
    with pytest.raises(WarehouseError, match="no table lables"):
        compact(warehouse, table="lables")


def test_an_amendment_of_what_was_compacted_is_compacted_again(warehouse: Path) -> None:
    amend(warehouse)
    compact(warehouse)
    amend(warehouse, 8)
    assert [done.files for done in compact(warehouse)] == [2, 2]
    assert read_table(warehouse, "labels", keys=[LABELS]).num_rows == 8


def test_old_files_go_with_a_vacuum_and_the_prompt_with_a_forget(warehouse: Path) -> None:
    amend(warehouse)
    head = Ledger(open_store(warehouse)).head()
    compact(warehouse)
    forget(warehouse, ["p1"], by="ann", why="asked")
    for version in (head, None):
        labels = read_table(warehouse, "labels", keys=[LABELS], as_of=version)
        assert labels["prompt_id"].to_pylist() == ["p2"] * 3
    assert len(vacuum(warehouse, keep_versions=1).expired) == 5
    assert verify(warehouse, all_versions=True).problems == ()


def test_large_files_stay_apart(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amend(warehouse)
    monkeypatch.setattr(compaction, "MAX_BYTES", 100)
    assert compact(warehouse) == []


def test_a_forget_meanwhile_is_a_conflict_and_leaves_no_copy(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amend(warehouse)
    real = Ledger.append

    def append(self: Ledger, *arguments: object, **options: object) -> object:
        monkeypatch.setattr(Ledger, "append", real)
        forget(warehouse, ["p1"], by="ann", why="asked")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "append", append)
    with pytest.raises(Conflict, match="run it again"):
        compact(warehouse)
    assert verify(warehouse).orphans == ()
    compact(warehouse)
    assert set(read_table(warehouse, "labels")["prompt_id"].to_pylist()) == {"p2", "t1"}


def test_a_damaged_file_is_not_copied(warehouse: Path) -> None:
    amend(warehouse)
    path = warehouse / paths(warehouse, table="labels", rounds=[0])[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match=path.name):
        compact(warehouse, table="labels")
    assert verify(warehouse).orphans == ()


def test_publishing_goes_on_after_it(warehouse: Path) -> None:
    amend(warehouse)
    compact(warehouse)
    publish_rows(warehouse, "round=5/x", 5, rollouts=[rollout(5, "p1")])
    assert verify(warehouse).problems == ()
