"""vacuum: it deletes what no kept version reads, and spares what is live, young or retained."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.builder import label, publish_rows, rollout, small_warehouse
from tests.warehouse.opened import read_table
from warehouse import publish as published
from warehouse.catalog.catalog import connect
from warehouse.errors import Conflict, Vacuumed, WarehouseError
from warehouse.ledger.commits import Commit
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.vacuum import vacuum
from warehouse.maintenance.verify import verify
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store
from warehouse.store.folder import FolderStore

TOMORROW = datetime.now(UTC) + timedelta(hours=25)


def relabel(root: str, times: int = 1) -> list[str]:
    """The labels of round 1 replaced by others, `times` over; the paths that no head reads.

    Each time two files: the labels and their sums.
    """
    dead = []
    for number in range(times):
        ledger = Ledger(open_store(root))
        (old,) = ledger.files(table="labels", rounds=[1])
        (sums,) = ledger.files(table="prompt_sums", rounds=[1])
        rows = [label(rollout(1, name, k), 0.5) for name in ("p1", "p2") for k in (0, 1)]
        publish(
            root,
            f"round=1/relabel-{number}",
            {"labels": table_from_rows("labels", rows)},
            round=1,
            remove=[old.path],
        )
        dead += [old.path, sums.path]
    return dead


def keys(root: str | Path) -> set[str]:
    return {entry.key for entry in open_store(root).entries("")}


def scores(root: str, as_of: int | None = None) -> list[float]:
    return sorted(read_table(root, "labels", rounds=[1], as_of=as_of)["score"].to_pylist())


def test_by_default_every_version_stays(store_root: str) -> None:
    small_warehouse(store_root)
    relabel(store_root)
    before = keys(store_root)
    done = vacuum(store_root, now=TOMORROW)
    assert (done.expired, done.leftovers, done.orphans, done.version) == ((), (), (), None)
    assert keys(store_root) == before


def test_old_versions_go_and_say_since_when(store_root: str) -> None:
    small_warehouse(store_root)
    whole = Ledger(open_store(store_root)).head()
    dead = relabel(store_root)
    before = keys(store_root)
    assert [e.key for e in vacuum(store_root, keep_versions=1, dry_run=True).expired] == dead
    assert keys(store_root) == before
    done = vacuum(store_root, keep_versions=1)
    assert [entry.key for entry in done.expired] == dead
    assert done.version == whole + 2
    ledger_file = f"_ledger/{done.version:010d}.json"
    assert keys(store_root) == (before - {*dead}) | {ledger_file}
    assert verify(store_root, all_versions=True).problems == ()
    assert scores(store_root) == scores(store_root, whole + 1) == [0.5] * 4
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for read in (read_table, lambda root, _, as_of: connect(root, as_of)):
        with pytest.raises(Vacuumed, match=f"version {whole} cannot be read since {today}"):
            read(store_root, "labels", as_of=whole)
    # A version that has lost nothing is read as before: the first is a part of every later one.
    assert read_table(store_root, "prompts", as_of=0).num_rows == 3


def test_versions_within_the_retention_are_spared(warehouse: Path) -> None:
    root = str(warehouse)
    whole = Ledger(open_store(root)).head()
    relabel(root, times=3)
    done = vacuum(root, keep_versions=3)
    assert (done.oldest, len(done.expired)) == (whole + 1, 2)
    assert [len(scores(root, version)) for version in range(whole + 1, whole + 4)] == [4, 4, 4]
    with pytest.raises(Vacuumed, match=f"oldest whole version is {whole + 1}"):
        scores(root, whole)


def test_a_retention_in_days_keeps_the_version_that_was_current_then(warehouse: Path) -> None:
    root = str(warehouse)
    relabel(root, times=2)
    commits = Ledger(open_store(root)).commits()
    between = commits[-1].committed_at
    just_before = vacuum(
        root, older_than=timedelta(days=1), now=between + timedelta(days=1, seconds=-1e-6),
        dry_run=True,
    )  # fmt: skip
    assert just_before.oldest == len(commits) - 2
    at_head = vacuum(root, older_than=timedelta(0), dry_run=True)
    assert (at_head.oldest, len(at_head.expired)) == (len(commits) - 1, 4)
    assert vacuum(root, older_than=timedelta(days=30), dry_run=True).expired == ()


def test_orphans_and_leftovers_go_when_they_are_old(store_root: str) -> None:
    small_warehouse(store_root)
    store, live = open_store(store_root), keys(store_root)
    if store.local_path("x") is not None:  # a killed put leaves nothing on S3
        store.put("_ledger/.put-killed", b"never touched")
        live.add("_ledger/.put-killed")
    ours = {"labels/round=0/nobody.parquet", "rollouts/.put-killed", ".put-probe"}
    others = {
        "_staging/a/labels.parquet",
        "policies/named-by-nobody/model.safetensors",
        "mine.parquet",
        "labels/notes.txt",
    }
    for key in ours | others:
        store.put(key, b"bytes")
    young = vacuum(store_root)
    assert (young.orphans, young.young) == ((), 3)
    assert keys(store_root) == live | ours | others
    old = vacuum(store_root, now=TOMORROW)
    assert ({entry.key for entry in old.orphans}, old.young) == (ours, 0)
    assert keys(store_root) == live | others
    sooner = datetime.now(UTC) + timedelta(hours=2)
    store.put("labels/again.parquet", b"bytes")
    assert vacuum(store_root, orphans_older_than=timedelta(hours=1), now=sooner).orphans


def test_policies_that_nothing_names_go_only_when_asked(store_root: str) -> None:
    small_warehouse(store_root)
    store = open_store(store_root)
    Ledger(store).append("round=1/training", [], meta={"policy_revision": "trained"})
    named = {f"policies/{name}/model.safetensors" for name in ("trained", "policy-0", "policy-1")}
    stray = {"policies/stray/model.safetensors", "policies/stray/critic/model.safetensors"}
    for key in named | stray:
        store.put(key, b"weights")
    assert vacuum(store_root).policies == {}  # young: a training may be about to commit
    listed = vacuum(store_root, now=TOMORROW).policies
    assert {entry.key for entry in listed["stray"]} == stray
    assert list(listed) == ["stray"]
    assert stray <= keys(store_root)
    vacuum(store_root, now=TOMORROW, with_policies=True)
    assert not stray & keys(store_root)
    assert named <= keys(store_root)
    folder = store.local_path("policies/stray")
    assert folder is None or not folder.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep_versions": 0}, "the newest always stays"),
        ({"keep_versions": 2, "older_than": timedelta(1)}, "exclude each other"),
        ({"older_than": timedelta(-1)}, "not below 0"),
        ({"orphans_older_than": timedelta(minutes=59)}, "at least 1 hour"),
    ],
)
def test_a_senseless_retention_is_refused(
    warehouse: Path, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(WarehouseError, match=message):
        vacuum(warehouse, **wrong)
    with pytest.raises(WarehouseError, match="no such folder"):
        vacuum(warehouse / "nowhere")
    assert not (warehouse / "nowhere").exists()


@pytest.mark.parametrize("deletions", [0, 1, 2])
def test_a_vacuum_killed_while_it_deletes_is_finished_by_the_next(
    warehouse: Path, deletions: int
) -> None:
    root = str(warehouse)
    dead = relabel(root, times=3)
    script = f"""
import os
from warehouse.store.folder import FolderStore
from warehouse.maintenance.vacuum import vacuum

done = 0
def delete(self, key, real=FolderStore.delete):
    global done
    if done == {deletions}:
        os._exit(9)
    done += 1
    real(self, key)

FolderStore.delete = delete
vacuum({root!r}, keep_versions=1)
"""
    killed = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
    assert killed.returncode == 9
    head = Ledger(open_store(root)).head()
    assert len(set(dead) & keys(root)) == 6 - deletions
    assert verify(root, all_versions=True).problems == ()
    assert scores(root) == [0.5] * 4
    done = vacuum(root)  # without a retention: the ledger says what was to go
    assert len(done.leftovers) == 6 - deletions
    assert not set(dead) & keys(root)
    assert Ledger(open_store(root)).head() == head


def test_a_vacuum_beside_publishers_takes_nothing_of_theirs(warehouse: Path) -> None:
    """Files put before their commit are orphans to the listing, and too young for it."""
    script = f"""
from tests.warehouse.builder import publish_rows, rollout
for number in range(20, 32):
    rows = [rollout(number, "p1")]
    publish_rows({str(warehouse)!r}, f"round={{number}}/x", number, rollouts=rows)
"""
    publisher = subprocess.Popen([sys.executable, "-c", script])
    while publisher.poll() is None:
        vacuum(warehouse, keep_versions=1, orphans_older_than=timedelta(hours=1))
    assert publisher.returncode == 0
    assert verify(warehouse).problems == ()
    rounds = read_table(warehouse, "rollouts")["round"].to_pylist()
    assert set(range(20, 32)) <= set(rounds)


def test_a_publish_that_slept_through_a_vacuum_does_not_commit(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that was shut between the files and their commit, and a vacuum beside it."""
    monkeypatch.setattr(published, "_SUSPICIOUS_SECONDS", -1)
    put_file, head = FolderStore.put_file, Ledger(open_store(warehouse)).head()

    def sleeps(self: FolderStore, key: str, path: Path) -> None:
        put_file(self, key, path)
        vacuum(warehouse, now=TOMORROW)

    monkeypatch.setattr(FolderStore, "put_file", sleeps)
    with pytest.raises(Conflict, match="was deleted before it was committed"):
        publish_rows(warehouse, "late", 7, rollouts=[rollout(7, "p1")])
    assert Ledger(open_store(warehouse)).head() == head
    monkeypatch.setattr(FolderStore, "put_file", put_file)
    publish_rows(warehouse, "late", 7, rollouts=[rollout(7, "p1")])
    assert verify(warehouse).problems == ()


def test_rows_published_after_a_vacuum_can_be_removed_and_vacuumed_again(warehouse: Path) -> None:
    root = str(warehouse)
    relabel(root)
    vacuum(root, keep_versions=1)
    publish_rows(warehouse, "late", 7, rollouts=[rollout(7, "p1")])
    (late,) = Ledger(open_store(root)).files(table="rollouts", rounds=[7])
    Ledger(open_store(root)).append("remove", [], remove=[late.path])
    assert [entry.key for entry in vacuum(root, keep_versions=1).expired] == [late.path]
    assert verify(root, all_versions=True).problems == ()


def test_of_two_vacuums_at_once_the_slower_deletes_nothing(
    store_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_warehouse(store_root)
    relabel(store_root)
    append = Ledger.append

    def after_a_rival(self: Ledger, key: str, *words: Any, **more: Any) -> Commit:
        monkeypatch.setattr(Ledger, "append", append)
        append(Ledger(open_store(store_root)), key, *words, **more)
        return append(self, key, *words, **more)

    monkeypatch.setattr(Ledger, "append", after_a_rival)
    data = {key for key in keys(store_root) if not key.startswith("_ledger")}
    with pytest.raises(Conflict, match="another vacuum was faster; nothing is deleted by this one"):
        vacuum(store_root, keep_versions=1)
    assert data <= keys(store_root)
    vacuum(store_root, keep_versions=1)
    assert verify(store_root).problems == ()
