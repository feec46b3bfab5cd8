"""A session that is open while files it reads are deleted."""

from __future__ import annotations

import duckdb
import pytest

from tests.warehouse import conftest as stores
from tests.warehouse.builder import small_warehouse
from warehouse.console.session import Session
from warehouse.errors import WarehouseError
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.forgetting import forget
from warehouse.store import open_store

s3_endpoint, s3_root, store_root = stores.s3_endpoint, stores.s3_root, stores.store_root


def test_an_open_session_is_told_that_its_files_are_gone(
    store_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small_warehouse(store_root)
    session, bystander = Session(store_root), Session(store_root)
    forget(store_root, ["t1"], by="ann", why="asked")
    with pytest.raises(WarehouseError, match=r"labels/\S+ has been deleted .* open a new one"):
        session.run("select sum(score) from labels", "csv")
    bystander.run("select count(*) as n from commits", "csv")  # reads no file
    Session(store_root).run("select count(*) as n from labels", "csv")
    assert capsys.readouterr().out.split()[-2:] == ["n", "8"]


def test_a_file_that_nobody_deleted_by_the_ledger_is_no_such_case(store_root: str) -> None:
    small_warehouse(store_root)
    session = Session(store_root)
    for file in Ledger(open_store(store_root)).files(table="labels"):
        open_store(store_root).delete(file.path)
    with pytest.raises(duckdb.Error, match=r"\.parquet"):
        session.run("select sum(score) from labels", "csv")
