"""Accidents of remote judges in real nights: killed while paying, refused, replayed, relabelled."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import yaml

from pipeline.config import RunConfig
from tests.commands import roundhouse
from tests.integration import nights
from tests.pipeline.judged import Judges, config, judges, sql, store_rollouts


def write(root: Path, settings: RunConfig) -> Path:
    file = root.parent / "night.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return file


def kept(root: Path) -> int:
    file = root / "_cache" / "answers.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as con:
            return int(con.execute("select count(*) from answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def hung(judging: Judges, among: range) -> None:
    """The endpoint answers to these rollouts after the kill only."""
    judging.server.plan = type(judging.server.plan)(slow_delay=300)
    judging.failing = {f"0-t{i}-0": "slow" for i in among}


def test_a_night_killed_while_it_pays_goes_on_without_paying_twice(starters, tmp_path):
    root = tmp_path / "warehouse"
    with judges() as judging:
        file = write(root, config(root, judging))
        store_rollouts(root, 0, "train", prompts=12)
        hung(judging, range(8, 12))
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "label", str(file), "--round", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=nights.environment(),
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while kept(root) < 8:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
        judging.failing = {}
        roundhouse("label", file, "--round", 0)
        assert sorted(judging.asked) == sorted(
            [f"0-t{i}-0" for i in range(12)] * 2 + [f"0-t{i}-0" for i in range(8, 12)]
        )
        rows = sql(root, "from labels where labeler = 'api'")
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["rollout_id"] for row in rows if row["is_cached"]} == {
        f"0-t{i}-0" for i in range(8)
    }


def test_a_refused_round_is_mended_and_accepted(starters, tmp_path):
    root = tmp_path / "warehouse"
    with judges() as judging:
        file = write(root, config(root, judging))
        store_rollouts(root, 0, "train")
        store_rollouts(root, 0, "holdout")
        judging.failing = {f"0-t{i}-0": "429" for i in range(5)}
        for purpose in ("train", "holdout"):
            roundhouse("label", file, "--round", 0, "--purpose", purpose)
        assert "Round 0 is refused" in roundhouse("train", file, "--round", 0, code=4).stdout
        assert "still undone" in roundhouse("replay-dead", file, code=3).stdout
        judging.failing = {}
        judging.asked.clear()
        roundhouse("replay-dead", file, "--round", 0)
        assert sorted(judging.asked) == sorted([f"0-t{i}-0" for i in range(5)] * 2)
        other = write(root, config(root, judging, model="m-2"))
        said = roundhouse("relabel", other, "--round", 0, "--labeler", "api").stdout
        assert said.count("rank correlation 1.000") == 2
    attempts = "select attempt, status, is_final from labels where rollout_id = '0-t0-0' " \
               "and labeler = 'metric' order by attempt"  # fmt: skip
    assert [tuple(row.values()) for row in sql(root, attempts)] == [
        (0, "throttled", False), (1, "throttled", False), (2, "ok", True),
    ]  # fmt: skip
