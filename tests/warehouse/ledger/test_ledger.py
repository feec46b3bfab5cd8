"""The ledger: races, refused keys, time travel, and damage that is named."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from tests.warehouse.builder import publish_rows
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.errors import AlreadyPublished, Conflict, CorruptFile, WarehouseError
from warehouse.ledger.commits import Commit, LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import SCHEMA_VERSION
from warehouse.store import open_store


def live_file(path: str, table: str = "labels", round: int | None = 0) -> LiveFile:
    return LiveFile(
        table=table,
        round=round,
        path=path,
        rows=1,
        bytes=10,
        sha256="ab",
        schema_version=1,
    )


def open_ledger(root: str) -> Ledger:
    return Ledger(open_store(root))


def append_many(root: str, writer: int, environment: dict[str, str]) -> list[str]:
    """One process of the race: five keys of its own and one that all want."""
    os.environ.update(environment)
    ledger = open_ledger(root)
    won = []
    for key in (*(f"writer={writer}/{n}" for n in range(5)), "shared"):
        try:
            ledger.append(key, [live_file(f"labels/{writer}-{key}")])
            won.append(key)
        except AlreadyPublished:
            assert key == "shared"
    return won


def test_eight_racing_processes_commit_every_key_exactly_once(store_root: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "boto3"])  # imported once, not eight times
    with context.Pool(8) as pool:
        orders = [(store_root, writer, dict(os.environ)) for writer in range(8)]
        won = pool.starmap(append_many, orders)
    commits = open_ledger(store_root).commits()
    keys = [commit.key for commit in commits]
    assert sorted(key for keys in won for key in keys) == sorted(keys)
    assert len(set(keys)) == len(keys) == 8 * 5 + 1
    assert [commit.version for commit in commits] == list(range(41))
    assert len(open_ledger(store_root).files()) == 41


def test_a_second_commit_with_the_same_key_is_refused(store_root: str) -> None:
    ledger = open_ledger(store_root)
    ledger.append("round=0/rewards", [live_file("a")])
    with pytest.raises(AlreadyPublished, match="round=0/rewards") as caught:
        open_ledger(store_root).append("round=0/rewards", [live_file("b")])
    assert caught.value.key == "round=0/rewards"
    assert ledger.head() == 0


def test_a_commit_reads_back_as_it_was_written(store_root: str) -> None:
    written = open_ledger(store_root).append(
        "key",
        [live_file("a", round=None)],
        operation="import",
        code_version="c1",
        config_sha256="f00",
        meta={"policy": "p1"},
    )
    assert open_ledger(store_root).find("key") == written
    assert open_ledger(store_root).find("other") is None
    assert open_store(store_root).exists("_ledger/0000000000.json")


def test_an_older_version_keeps_its_files(store_root: str) -> None:
    ledger = open_ledger(store_root)
    ledger.append("one", [live_file("a"), live_file("b", "rollouts", 1)])
    ledger.append("two", [live_file("c")], remove=["a"])
    assert [file.path for file in ledger.files()] == ["b", "c"]
    assert [file.path for file in ledger.files(as_of=0)] == ["a", "b"]
    assert ledger.files(as_of=-1) == []
    assert [file.path for file in ledger.files(table="labels")] == ["c"]
    assert [file.path for file in ledger.files(rounds=[1])] == ["b"]
    with pytest.raises(WarehouseError, match="no version 2; the last one is 1"):
        ledger.files(as_of=2)


def test_removing_a_dead_path_or_adding_a_live_one_is_a_conflict(store_root: str) -> None:
    ledger = open_ledger(store_root)
    ledger.append("one", [live_file("a")])
    ledger.append("two", [], remove=["a"])
    with pytest.raises(Conflict, match="cannot remove a"):
        ledger.append("three", [], remove=["a"])
    ledger.append("three", [live_file("a")])
    with pytest.raises(Conflict, match="cannot add a"):
        ledger.append("four", [live_file("a")])
    assert ledger.head() == 2


def test_a_commit_checked_against_an_older_version_is_refused_if_its_table_changed(
    store_root: str,
) -> None:
    ledger = open_ledger(store_root)
    ledger.append("one", [live_file("a", "labels")])
    ledger.append("two", [live_file("b", "gold")])
    with pytest.raises(Conflict, match="three: two has changed gold since version 0"):
        ledger.append("three", [live_file("c", "gold")], since=0)
    ledger.append("three", [live_file("c", "gold")], since=1)
    ledger.append("four", [live_file("d", "labels")], since=0)
    assert ledger.head() == 3


def test_an_empty_warehouse_has_no_version(store_root: str) -> None:
    assert open_ledger(store_root).head() == -1
    assert open_ledger(store_root).files() == []


def test_a_gap_names_the_missing_file(store_root: str) -> None:
    for key in ("one", "two", "three"):
        open_ledger(store_root).append(key, [])
    open_store(store_root).delete("_ledger/0000000001.json")
    with pytest.raises(CorruptFile, match=r"0000000001\.json is missing"):
        open_ledger(store_root).head()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "key": "x"}'])
def test_broken_json_names_the_file(store_root: str, content: str) -> None:
    open_store(store_root).put("_ledger/0000000000.json", content.encode())
    with pytest.raises(CorruptFile, match=r"0000000000\.json"):
        open_ledger(store_root).commits()


def test_a_newer_schema_is_refused(warehouse: Path) -> None:
    """Also for writing, and before a file is opened: its columns may mean anything."""
    last = max((warehouse / "_ledger").iterdir())
    commit = json.loads(last.read_text())
    commit["add"][0]["schema_version"] = 99
    last.write_text(json.dumps(commit))
    reason = (
        f"{last.name} holds files of schema version 99, this roundhouse reads up to "
        f"{SCHEMA_VERSION}; update roundhouse"
    )
    for use in (connect, lambda root: read_table(root, "prompts")):
        with pytest.raises(WarehouseError, match=reason):
            use(warehouse)
    with pytest.raises(WarehouseError, match=reason):
        publish_rows(warehouse, "more", prompts=[])


def test_a_commit_of_a_newer_format_or_another_version_is_refused(store_root: str) -> None:
    open_ledger(store_root).append("one", [])
    store, name = open_store(store_root), "_ledger/0000000000.json"
    fields = json.loads(store.get(name))
    store.delete(name)
    store.put(name, json.dumps(fields | {"format": 2}).encode())
    with pytest.raises(CorruptFile, match="newer version"):
        open_ledger(store_root).commits()
    store.delete(name)
    store.put(name, json.dumps(fields | {"version": 7}).encode())
    with pytest.raises(CorruptFile, match="says it is version 7"):
        open_ledger(store_root).commits()


def test_a_stray_file_in_the_ledger_is_named(store_root: str) -> None:
    open_store(store_root).put("_ledger/notes.txt", b"mine")
    with pytest.raises(CorruptFile, match=r"notes\.txt does not belong"):
        open_ledger(store_root).commits()


def test_a_commit_that_amends_a_key_is_part_of_its_work(store_root: str) -> None:
    ledger = open_ledger(store_root)
    ledger.append("labels/a", [live_file("a1"), live_file("a2"), live_file("t", "templates")])
    ledger.append("labels/b", [live_file("b")])
    ledger.append("labels/a/replay-1", [live_file("a3")], ["a1"], meta={"amends": "labels/a"})
    ledger.append("labels/a/replay-2", [live_file("a4")], ["a3"], meta={"amends": "labels/a"})

    def paths(*keys: str, as_of: int | None = None, **choice: str) -> list[str]:
        return [file.path for file in open_ledger(store_root).files_of(keys, as_of, **choice)]

    assert paths("labels/a", table="labels") == ["a2", "a4"]
    assert paths("labels/a", "labels/b", as_of=2) == ["a2", "t", "b", "a3"]
    assert paths("labels/a", as_of=0) == ["a1", "a2", "t"]
    assert paths("labels/b") == ["b"]
    with pytest.raises(WarehouseError, match="nothing is published under labels/c"):
        paths("labels/a", "labels/c")


def test_what_a_key_has_is_of_one_moment_however_often_others_commit(
    store_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, other = open_ledger(store_root), open_ledger(store_root)
    ledger.append("labels/a", [live_file("a1")])
    look = Ledger.commits

    def look_and_let_another_amend(self: Ledger, as_of: int | None = None) -> list[Commit]:
        seen = look(self, as_of)
        if self is ledger:
            here = [file.path for file in other.files()]
            n = len(seen)
            other.append(f"again-{n}", [live_file(f"b{n}")], here, meta={"amends": "labels/a"})
        return seen

    monkeypatch.setattr(Ledger, "commits", look_and_let_another_amend)
    assert [file.path for file in ledger.files_of(["labels/a"])] == ["a1"]
    assert [file.path for file in ledger.files_of(["labels/a"])] == ["b1"]
    assert [file.path for file in ledger.snapshot().files] == ["b2"]
