"""A stage on a full disk keeps its finished shards, leaves no half file and says what to do."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import BeamConfig
from pipeline.errors import StageError
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.shards import ShardResult, StageSpec, run_stage
from tests.small_disk import SIZE, small_disk
from warehouse.schemas import TABLES
from warehouse.store.disk_full import DiskFull


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


class Grower:
    """A worker that makes `size` bytes, which nothing compresses, of every number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def run(self, rows: pa.Table, _: Heartbeat) -> ShardResult:
        out = pa.table({"bytes": [os.urandom(self._size) for _ in range(rows.num_rows)]})
        return ShardResult(out, TABLES["dead_letters"].schema.empty_table(), rows.num_rows)


def spec(disk: Path) -> StageSpec:
    return StageSpec("toy", disk / "staging", "c", "numbers", BeamConfig(runner="FnApiRunner"))


def temporary_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_the_input_of_a_stage_does_not_fit(disk):
    shard = pa.table({"n": [os.urandom(SIZE * 2)]})
    with pytest.raises(DiskFull, match=r"staging: the disk is full: input-00000\.parquet .* MB"):
        run_stage(spec(disk), [shard], functools.partial(Grower, 1))
    assert temporary_files(disk) == []


def test_what_a_worker_made_does_not_fit(disk):
    shards = [pa.table({"n": [number]}) for number in range(4)]
    with pytest.raises(StageError) as error:
        run_stage(spec(disk), shards, functools.partial(Grower, SIZE // 3))
    assert "DiskFull" in str(error.value)
    assert "the disk is full: rows-00002.parquet before compression" in str(error.value)
    assert "finished shards are kept" in str(error.value)
    assert temporary_files(disk) == []
    kept = sorted(path.name for path in (disk / "staging").glob("manifest-*"))
    assert kept == ["manifest-00000.json", "manifest-00001.json"]
    manifests = run_stage(spec(disk), shards, functools.partial(Grower, SIZE // 16))
    assert [manifest.rows_ok for manifest in manifests] == [1, 1, 1, 1]
