"""The Beam shape: every row accounted for, finished shards skipped, nothing half-written."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import BeamConfig
from pipeline.errors import StageError
from pipeline.runtime.progress import Heartbeat, read_progress
from pipeline.runtime.shards import (
    Manifest,
    ShardResult,
    StageSpec,
    run_stage,
    split_rows,
    staged_rows,
)
from warehouse.schemas import table_from_rows

RUNNERS = {
    "FnApiRunner": BeamConfig(runner="FnApiRunner"),
    "two processes": BeamConfig(runner="FnApiRunner", workers=2),
    "BundleBasedDirectRunner": BeamConfig(runner="BundleBasedDirectRunner"),
    "portable": BeamConfig(
        runner="PortableRunner",
        options=("--job_endpoint=embed", "--environment_type=LOOPBACK"),
    ),
}


class Doubler:
    """A toy worker: doubles numbers, odd ones are dead letters, writes down what it was given."""

    def __init__(self, diary: Path, die_at: int | None = None, lose_one: bool = False) -> None:
        self._diary, self._die_at, self._lose_one = diary, die_at, lose_one

    def run(self, rows: pa.Table, progress: Heartbeat) -> ShardResult:
        numbers = rows["n"].to_pylist()
        with self._diary.open("a") as diary:
            diary.write(f"{numbers[0]}\n")
        if self._die_at in numbers:
            os._exit(9)
        even = [n for n in numbers if n % 2 == 0]
        dead = [
            {"stage": "toy", "row_id": str(n), "error_type": "Odd", "message": f"{n} is odd",
             "attempt": 1, "failed_at": 0}
            for n in numbers if n % 2
        ]  # fmt: skip
        progress.update(len(numbers))
        out = pa.table({"n": [2 * n for n in even]})
        ok = len(even) - self._lose_one
        return ShardResult(out, table_from_rows("dead_letters", dead), ok, tokens=len(even))


def spec(tmp_path: Path, beam: BeamConfig = RUNNERS["FnApiRunner"], config: str = "c") -> StageSpec:
    return StageSpec("toy", tmp_path / "staging", config, "numbers", beam)


def diary(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "diary").read_text().split()]


NUMBERS = pa.table({"n": list(range(10))})


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_runner_gives_the_same_shards(tmp_path, runner):
    stage = spec(tmp_path, RUNNERS[runner])
    make = functools.partial(Doubler, tmp_path / "diary")
    manifests = run_stage(stage, split_rows(NUMBERS, 4), make)
    assert [(m.rows_in, m.rows_ok, m.rows_dead) for m in manifests] == [
        (4, 2, 2),
        (4, 2, 2),
        (2, 1, 1),
    ]
    rows = pa.concat_tables(pq.read_table(p) for p in staged_rows(stage, manifests, "rows"))
    assert rows["n"].to_pylist() == [0, 4, 8, 12, 16]
    dead = pa.concat_tables(pq.read_table(p) for p in staged_rows(stage, manifests, "dead"))
    assert dead["row_id"].to_pylist() == ["1", "3", "5", "7", "9"]
    progress = read_progress(stage.folder)
    assert progress is not None
    assert (progress.done, progress.total) == (10, 10)


def test_finished_shards_are_not_done_again(tmp_path):
    make = functools.partial(Doubler, tmp_path / "diary")
    shards = split_rows(NUMBERS, 4)
    first = run_stage(spec(tmp_path), shards, make)
    (tmp_path / "staging" / "manifest-00001.json").unlink()
    assert [m.shard for m in run_stage(spec(tmp_path), shards, make)] == [m.shard for m in first]
    assert diary(tmp_path) == [0, 4, 8, 4]


def test_another_configuration_or_a_changed_input_is_done_again(tmp_path):
    make = functools.partial(Doubler, tmp_path / "diary")
    shards = split_rows(NUMBERS, 4)
    run_stage(spec(tmp_path), shards, make)
    run_stage(spec(tmp_path, config="other"), shards, make)
    assert diary(tmp_path) == [0, 4, 8, 0, 4, 8]
    pq.write_table(pa.table({"n": [2, 4]}), tmp_path / "staging" / "input-00002.parquet")
    run_stage(spec(tmp_path, config="other"), shards, make)
    assert diary(tmp_path)[6:] == [2]


def test_a_worker_that_loses_a_row_stops_the_stage(tmp_path):
    make = functools.partial(Doubler, tmp_path / "diary", lose_one=True)
    reason = r"^toy: StageError: toy shard 00000: 4 rows in, but 1 ok and 2 dead"
    with pytest.raises(StageError, match=reason):
        run_stage(spec(tmp_path), split_rows(NUMBERS, 4), make)
    assert not list((tmp_path / "staging").glob("manifest-*"))


def test_a_killed_worker_leaves_finished_shards_and_nothing_half_written(tmp_path):
    script = (
        "import functools, pyarrow as pa\n"
        "from pathlib import Path\n"
        "from tests.pipeline.runtime.test_shards import Doubler, NUMBERS, spec\n"
        "from pipeline.runtime.shards import run_stage, split_rows\n"
        f"here = Path({str(tmp_path)!r})\n"
        "run_stage(spec(here), split_rows(NUMBERS, 4), "
        "functools.partial(Doubler, here / 'diary', die_at=8))\n"
    )
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert died.returncode == 9, died.stderr
    staged = tmp_path / "staging"
    manifests = sorted(staged.glob("manifest-*"))
    assert [Manifest(**json.loads(m.read_text())).rows_in for m in manifests] == [4, 4]
    assert not (staged / "rows-00002.parquet").exists()
    make = functools.partial(Doubler, tmp_path / "diary")
    assert len(run_stage(spec(tmp_path), split_rows(NUMBERS, 4), make)) == 3
    assert diary(tmp_path) == [0, 4, 8, 8], "only the shard that died is done again"
