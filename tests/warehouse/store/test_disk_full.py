"""A full disk costs the publish that met it, nothing that was there, and says what to do."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.small_disk import fill, no_file_above, small_disk
from tests.warehouse.builder import Row, publish_rows, rollout
from tests.warehouse.store import faulty_s3 as faults
from tests.warehouse.store.faulty_s3 import faulty_s3
from warehouse.catalog.catalog import connect
from warehouse.errors import StoreError
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.vacuum import vacuum
from warehouse.maintenance.verify import verify
from warehouse.store import open_store
from warehouse.store.disk_full import DiskFull, readable_bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def full_warehouse(disk: Path, shared_warehouse: Path) -> Path:
    """The small warehouse on the small disk."""
    return Path(shutil.copytree(shared_warehouse, disk / "warehouse"))


def incompressible(round: int, kilobytes: int) -> list[Row]:
    """Rollouts that stay that large however they are compressed."""
    rng = random.Random(round)
    texts = ["".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(430)) for _ in range(64)]
    rows = [rollout(round, f"p{k}", completion=texts[k % 64] + str(k)) for k in range(kilobytes)]
    for row in rows:  # token ids that are as hard to compress as the texts
        row["completion_ids"] = [rng.getrandbits(31) for _ in range(250)]
        row["behavior_logprobs"] = None
    return rows


def assert_whole(root: Path, head: int) -> None:
    assert Ledger(open_store(root, read_only=True)).head() == head
    assert connect(root).sql("select count(*) from rollouts").fetchall() == [(10,)]
    assert verify(root, all_versions=True).problems == ()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith((".", "roundhouse-"))]


def test_a_publish_on_a_full_disk_leaves_the_last_version_and_says_so(full_warehouse: Path) -> None:
    root, head = full_warehouse, Ledger(open_store(full_warehouse)).head()
    with pytest.raises(DiskFull) as error:
        publish_rows(root, "big", 5, rollouts=incompressible(5, 600))
    said = str(error.value)
    assert said.startswith(f"{root}: the disk is full: table rollouts before compression (")
    assert "MB) does not fit, " in said
    assert "are free; nothing was committed" in said
    assert "roundhouse vacuum" in said
    assert_whole(root, head)
    assert leftovers(root) == []
    publish_rows(root, "big", 5, rollouts=incompressible(5, 60))  # the same key, now that it fits
    assert Ledger(open_store(root)).head() == head + 1


def test_the_commit_itself_may_find_no_room(full_warehouse: Path) -> None:
    root = full_warehouse
    ledger = Ledger(open_store(root))
    head = ledger.head()
    filler = fill(root)
    with pytest.raises(DiskFull, match=rf"_ledger/{head + 1:010}\.json \(\d+ bytes\) does not fit"):
        ledger.append("key", [])
    with pytest.raises(DiskFull, match="the disk is full"):
        publish_rows(root, "key", 5, rollouts=[rollout(5, "p1")])
    assert_whole(root, head)
    assert leftovers(root) == []
    filler.unlink()
    assert ledger.append("key", []).version == head + 1


def test_vacuum_makes_room_on_a_full_disk(full_warehouse: Path) -> None:
    root = full_warehouse
    store, head = open_store(root), Ledger(open_store(root)).head()
    store.put("labels/round=9/orphan.parquet", bytes(100_000))
    fill(root)
    done = vacuum(root, now=datetime.now(UTC) + timedelta(days=2))
    assert [entry.key for entry in done.orphans] == ["labels/round=9/orphan.parquet"]
    assert_whole(root, head)
    publish_rows(root, "key", 5, rollouts=[rollout(5, "p1")])


def test_a_forget_on_a_full_disk_changes_nothing(full_warehouse: Path) -> None:
    root, head = full_warehouse, Ledger(open_store(full_warehouse)).head()
    filler = fill(root)
    with pytest.raises(DiskFull):
        forget(root, ["p1"], by="me", why="asked")
    assert_whole(root, head)
    filler.unlink()
    forget(root, ["p1"], by="me", why="asked")
    assert connect(root).sql("select count(*) from rollouts").fetchall() == [(6,)]


def test_a_full_temporary_folder_is_named_with_another_way(
    disk: Path, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(s3_root, "key", 0, rollouts=[rollout(0, "p1")])
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with pytest.raises(DiskFull) as error:
        publish_rows(s3_root, "big", 5, rollouts=incompressible(5, 600))
    said = str(error.value)
    assert said.startswith(f"{disk}/roundhouse-")
    assert "table rollouts before compression" in said
    assert "TMPDIR" in said
    assert list(disk.iterdir()) == []
    assert [commit.key for commit in Ledger(open_store(s3_root)).commits()] == ["key"]


def test_a_quota_on_files_is_a_full_disk_as_well(warehouse: Path, tmp_path: Path) -> None:
    """Needs no right to mount, so it runs everywhere."""
    head = Ledger(open_store(warehouse)).head()
    store = open_store(warehouse)
    with no_file_above(8192):
        with pytest.raises(DiskFull, match=r"takes no file of this size: labels/x .*8\.2 kB"):
            store.put("labels/x", bytes(8193))
        with pytest.raises(DiskFull, match=r"table rollouts .* does not fit"):
            publish_rows(warehouse, "big", 5, rollouts=incompressible(5, 60))
        big = tmp_path / "big"
        store.put("labels/fits", bytes(8192))
    big.write_bytes(bytes(9000))
    with no_file_above(8192), pytest.raises(DiskFull, match=r"labels/y \(9\.0 kB\)"):
        store.put_file("labels/y", big)
    assert not any(store.exists(key) for key in ("labels/x", "labels/y"))
    assert leftovers(warehouse) == []
    assert_whole(warehouse, head)


@pytest.mark.parametrize(
    ("status", "code"),
    [(507, "XMinioStorageFull"), (507, "SomethingElse"), (403, "QuotaExceeded")],
)
def test_full_storage_behind_s3_is_said(
    s3_root: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    with faulty_s3(s3_endpoint) as proxy:
        root = s3_root.replace(s3_endpoint, proxy.address)
        publish_rows(root, "key", 0, rollouts=[rollout(0, "p1")])
        monkeypatch.setitem(faults._CODES, "error 500", (status, code))
        proxy.plan("error 500", "PUT", "rollouts/round=1", times=20)
        with pytest.raises(StoreError, match=rf"storage behind bucket .* is full.*{code}"):
            publish_rows(root, "next", 1, rollouts=[rollout(1, "p1")])
        assert Ledger(open_store(root)).head() == 0
        assert verify(root).problems == ()
        proxy.calm()
        publish_rows(root, "next", 1, rollouts=[rollout(1, "p1")])


def test_sizes_read_well() -> None:
    sizes = (999, 1500, 2_000_000, 3_250_000_000, 5_000_000_000_000)
    assert [readable_bytes(size) for size in sizes] == [
        "999 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "5000.0 GB",
    ]  # fmt: skip
