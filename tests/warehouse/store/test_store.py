"""The contract of a store, held on a folder and on S3."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from warehouse.errors import AlreadyExists, MissingObject, StoreError
from warehouse.store import open_store
from warehouse.store.base import Store


@pytest.fixture
def store(store_root: str) -> Store:
    return open_store(store_root)


def test_a_key_holds_what_was_put(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.put("a/b/one", b"1")
    store.put_file("a/two", source)
    assert (store.get("a/b/one"), store.get("a/two")) == (b"1", b"from a file")
    assert store.exists("a/two")
    assert not store.exists("a/three")


def test_a_key_is_never_overwritten(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"second")
    store.put("key", b"first")
    with pytest.raises(AlreadyExists, match="key"):
        store.put("key", b"second")
    with pytest.raises(AlreadyExists, match="key"):
        store.put_file("key", source)
    assert store.get("key") == b"first"


def test_one_of_sixteen_racing_writers_wins(store: Store) -> None:
    def write(number: int) -> bool:
        try:
            store.put("race", str(number).encode())
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert sum(won) == 1
    assert store.get("race") == str(won.index(True)).encode()


def test_list_gives_sorted_keys_of_a_prefix_and_no_temporary_files(
    store: Store, tmp_path: Path
) -> None:
    for key in ("a/round=1/y", "a/round=10/z", "a/round=1/x", "b"):
        store.put(key, b"")
    if store.local_path("a") is not None:
        (tmp_path / "root" / "a" / "round=1" / ".put-killed").write_bytes(b"half")
    assert store.list("a/round=1/") == ["a/round=1/x", "a/round=1/y"]
    assert store.list("a/round=1") == ["a/round=1/x", "a/round=1/y", "a/round=10/z"]
    assert store.list("") == ["a/round=1/x", "a/round=1/y", "a/round=10/z", "b"]
    assert store.list("nothing/") == []


def test_delete_removes_one_key_and_a_missing_one_is_an_error(store: Store) -> None:
    store.put("key", b"")
    store.delete("key")
    for use in (store.get, store.delete):
        with pytest.raises(MissingObject, match="key"):
            use("key")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a/../../outside"])
def test_a_key_cannot_leave_the_root(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="no key"):
        store.put(key, b"")


def test_put_leaves_no_temporary_file_and_lets_others_read(tmp_path: Path) -> None:
    store = open_store(tmp_path / "root")
    store.put("a/key", b"1")
    with pytest.raises(AlreadyExists):
        store.put("a/key", b"2")
    folder = tmp_path / "root" / "a"
    assert os.listdir(folder) == ["key"]  # noqa: PTH208 - also names that start with a dot
    assert (folder / "key").stat().st_mode & 0o777 == 0o644


def test_a_mount_without_hard_links_is_refused_when_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=r"no hard links \(EPERM\)"):
        open_store(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_reading_creates_nothing_and_wants_the_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "typo", read_only=True)
    assert not (tmp_path / "typo").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file: cannot be a warehouse folder"):
        open_store(tmp_path / "file")


def test_a_place_on_s3_without_a_ledger_is_no_warehouse_to_read(s3_root: str) -> None:
    with pytest.raises(StoreError, match="is this the address of a warehouse"):
        open_store(s3_root, read_only=True)
