"""A warehouse opened once: it sees what others commit meanwhile, or stays at its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.warehouse.builder import prompt, publish_rows
from warehouse.errors import StoreError
from warehouse.handle import Warehouse


def test_an_open_warehouse_sees_the_commits_of_others(tmp_path: Path):
    warehouse = Warehouse.open(tmp_path / "w")
    assert not warehouse.is_published("first")
    publish_rows(tmp_path / "w", "first", prompts=[prompt("p1")])
    assert warehouse.is_published("first")
    assert warehouse.read_table("prompts", columns=["prompt_id"]).to_pylist() == [
        {"prompt_id": "p1"}
    ]
    publish_rows(tmp_path / "w", "second", prompts=[prompt("p2")])
    assert warehouse.read_table("prompts").num_rows == 2
    assert warehouse.connect().sql("select count(*) from prompts").fetchall() == [(2,)]
    assert warehouse.read_table("prompts", keys=["second"])["prompt_id"].to_pylist() == ["p2"]


def test_a_warehouse_as_of_a_version_reads_that_version(tmp_path: Path):
    for number in range(3):
        publish_rows(tmp_path, f"k{number}", prompts=[prompt(f"p{number}")])
    warehouse = Warehouse.open(tmp_path, read_only=True, as_of=1)
    assert warehouse.read_table("prompts").num_rows == 2
    assert warehouse.connect().sql("select count(*) from prompts").fetchall() == [(2,)]
    assert warehouse.at(0).read_table("prompts").num_rows == 1


def test_reading_makes_no_folder(tmp_path: Path):
    with pytest.raises(StoreError, match="no such folder"):
        Warehouse.open(tmp_path / "mistyped", read_only=True)
    assert not (tmp_path / "mistyped").exists()
