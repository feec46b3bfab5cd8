"""verify: what is damaged is found and named, what is whole is not accused, on both stores."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import small_warehouse
from tests.warehouse.opened import read_table
from warehouse.errors import CorruptFile, WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.evidence import verify_files
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.verify import verify
from warehouse.store import open_store
from warehouse.store.base import Store


def a_file(root: str, table: str = "labels", round: int = 0) -> LiveFile:
    return Ledger(open_store(root)).files(table=table, rounds=[round])[0]


def overwrite(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    store.put(key, data)


def flip_bit(store: Store, file: LiveFile) -> None:
    data = bytearray(store.get(file.path))
    data[len(data) // 3] ^= 0x10
    overwrite(store, file.path, bytes(data))


def found(root: str, **choice: object) -> dict[str, str]:
    return {problem.path: problem.kind for problem in verify(root, **choice).problems}


def test_a_whole_warehouse_has_no_problem_and_its_numbers(store_root: str) -> None:
    small_warehouse(store_root)
    told: list[tuple[int, int]] = []
    seen = verify(store_root, progress=lambda done, total: told.append((done, total)))
    files = Ledger(open_store(store_root)).files()
    assert seen.problems == ()
    assert seen.orphans == ()
    assert (seen.files, seen.rows) == (len(files), sum(file.rows for file in files))
    assert max(told) == (seen.bytes, seen.bytes)


def test_flipped_truncated_and_missing_files_are_each_named(store_root: str) -> None:
    small_warehouse(store_root)
    store = open_store(store_root)
    flipped, cut, lost = (a_file(store_root, name) for name in ("labels", "rollouts", "rewards"))
    flip_bit(store, flipped)
    overwrite(store, cut.path, store.get(cut.path)[:-20])
    store.delete(lost.path)
    assert found(store_root) == {
        flipped.path: "damaged",
        cut.path: "truncated",
        lost.path: "missing",
    }


def test_rows_and_schema_are_held_to_the_ledger_as_well(tmp_path: Path) -> None:
    """A right sha256 of the wrong file: what a faulty publisher would commit."""
    store = open_store(tmp_path)
    for name, rows, table in [
        ("fewer", pa.table({"template_sha256": ["a"]}), "templates"),
        ("other", pa.table({"rollout_id": [1]}), "gold"),
    ]:
        pq.write_table(rows, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        store.put(f"{table}/x.parquet", data)
        file = LiveFile(
            table=table,
            round=None,
            path=f"{table}/x.parquet",
            rows=2 if name == "fewer" else 1,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            schema_version=1,
        )
        Ledger(store).append(name, [file])
    problems = {problem.path: problem for problem in verify(tmp_path).problems}
    assert problems["templates/x.parquet"].kind == "wrong rows"
    assert problems["gold/x.parquet"].kind == "wrong schema"
    assert "rollout_id" in problems["gold/x.parquet"].detail


def test_versions(warehouse: Path) -> None:
    """Damage to a file that is no longer live shows in the versions that read it."""
    store, ledger = open_store(warehouse), Ledger(open_store(warehouse))
    head, old = ledger.head(), a_file(str(warehouse))
    ledger.append("again", [], remove=[old.path])
    flip_bit(store, old)
    assert found(str(warehouse)) == {}
    assert found(str(warehouse), as_of=head) == {old.path: "damaged"}
    assert found(str(warehouse), all_versions=True) == {old.path: "damaged"}
    with pytest.raises(WarehouseError, match="no version 99"):
        verify(warehouse, 99)


def test_damage_of_the_ledger_is_among_the_problems(warehouse: Path) -> None:
    flipped = a_file(str(warehouse))
    flip_bit(open_store(warehouse), flipped)
    (warehouse / "_ledger" / "0000000000.json").unlink()
    (warehouse / "_ledger" / "0000000004.json").write_text("{")
    (warehouse / "_ledger" / "notes.txt").write_text("mine")
    problems = found(str(warehouse))
    assert problems.pop(flipped.path) == "damaged"
    assert set(problems) == {
        "_ledger/0000000000.json",
        "_ledger/0000000004.json",
        "_ledger/notes.txt",
    }
    assert set(problems.values()) == {"ledger"}


def test_orphans_are_counted_and_no_problem(store_root: str) -> None:
    small_warehouse(store_root)
    store = open_store(store_root)
    store.put("labels/round=0/nobody.parquet", b"12345")
    store.put("labels/round=0/.put-killed", b"123")
    for strange in ("_staging/x/labels.parquet", "policies/p/model.safetensors", "notes.parquet"):
        store.put(strange, b"not ours to judge")
    seen = verify(store_root)
    assert seen.problems == ()
    assert [(entry.key, entry.bytes) for entry in seen.orphans] == [
        ("labels/round=0/.put-killed", 3),
        ("labels/round=0/nobody.parquet", 5),
    ]


def test_reading_with_evidence_refuses_a_flipped_bit_anywhere(store_root: str) -> None:
    """Also one in a column that is not asked for: the file is not the one that was published."""
    small_warehouse(store_root)
    file = a_file(store_root, "rollouts", 1)
    assert read_table(store_root, "rollouts", rounds=[1], verified=True).num_rows == 4
    flip_bit(open_store(store_root), file)
    columns = ["sample_index"]
    with pytest.raises(CorruptFile, match=f"{file.path}: damaged"):
        read_table(store_root, "rollouts", rounds=[1], columns=columns, verified=True)
    read_table(store_root, "rollouts", rounds=[0], columns=columns, verified=True)


def test_every_damaged_file_is_in_the_error(warehouse: Path) -> None:
    store, files = open_store(warehouse), Ledger(open_store(warehouse)).files()
    wrong = [replace(file, sha256="0" * 64) for file in files[:2]]
    with pytest.raises(CorruptFile) as caught:
        verify_files(store, wrong)
    assert all(file.path in str(caught.value) for file in wrong)
    verify_files(store, files)
