"""`import warehouse; warehouse.connect(...)`, and rollouts as the data frames of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import warehouse as rooms


def test_connect_is_one_import_away_and_pins_a_version(shared_warehouse: Path) -> None:
    con = rooms.connect(shared_warehouse)
    assert "rollout_id" in repr(con.sql("select rollout_id from rollouts"))
    before = rooms.connect(str(shared_warehouse), as_of=1)
    assert before.sql("select count(*) from rollouts").fetchall() == [(4,)]
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = rooms.conect


def test_the_schemas_alone_load_no_database() -> None:
    code = "import sys, warehouse.schemas; sys.exit('duckdb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rollouts_read_as_pandas(shared_warehouse: Path) -> None:
    con = rooms.connect(shared_warehouse)
    rollouts = con.sql("from rollouts").df()
    assert len(rollouts) == 10
    assert list(rollouts.loc[rollouts.purpose == "train", "rollout_id"]) == ["0-t1-0", "0-t1-1"]
    assert str(rollouts.generated_at.dt.tz) in ("UTC", "Etc/UTC")


def test_rollouts_read_as_polars(shared_warehouse: Path) -> None:
    polars = pytest.importorskip("polars")
    con = rooms.connect(shared_warehouse)
    rollouts = con.sql("from rollouts").pl()
    assert rollouts.filter(polars.col("round") == 1).height == 4
    assert rollouts.schema["completion_ids"] == polars.List(polars.Int32)


def test_rollouts_read_as_a_hugging_face_data_set(shared_warehouse: Path) -> None:
    from datasets import Dataset

    con = rooms.connect(shared_warehouse)
    rollouts = Dataset(con.sql("from rollouts").to_arrow_table())
    assert rollouts.num_rows == 10
    assert rollouts.filter(lambda row: row["round"] == 1).num_rows == 4
    assert isinstance(rollouts[0]["completion_ids"], list)
