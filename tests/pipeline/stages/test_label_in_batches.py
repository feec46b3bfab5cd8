"""`roundhouse label` with a judge on Bedrock in batches: a file in, a job over S3, a file out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

from pipeline.configs.loading import load_config
from tests.labeling.engines.bedrock.batch_server import (
    BatchServer,
    Record,
    batches,
    by_tool,
    config_of,
)
from tests.s3_server import s3_server


def configuration(server: BatchServer, folder: Path) -> Path:
    """The demo's, with one labeler."""
    config = load_config("demo").model_dump(mode="json")
    judge = {
        "name": "claude",
        "kind": "judge",
        "role": "metric",
        "criterion": "helpfulness",
        "rubric": "helpfulness",
        "engine": config_of(server.bucket).model_dump(mode="json"),
    }
    path = folder / "batch.yaml"
    path.write_text(yaml.safe_dump(config | {"labelers": [*config["labelers"], judge]}))
    return path


def test_a_file_of_texts_is_labelled_by_one_job(tmp_path: Path):
    texts, out = tmp_path / "texts.jsonl", tmp_path / "labels.parquet"
    rows = [{"id": f"t{i}", "prompt": "How are you?", "completion": f"c{i}"} for i in range(20)]
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def reply(place: int, record: Record) -> list[Record]:
        return [by_tool(record, 1 + place % 9)] if place != 3 else []

    with s3_server() as url, batches(url) as (server, environment):
        server.replies = reply
        command = [sys.executable, "-m", "pipeline.cli", "label", "--input", str(texts)]
        command += ["--config", str(configuration(server, tmp_path)), "--out", str(out)]
        command += ["--labeler", "claude"]
        environment |= {"ROUNDHOUSE_CACHE": str(tmp_path / "cache")}  # no earlier run's answers
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        assert [len(records) for records in server.inputs] == [20]
        (arn,) = server.jobs
    seen = duckdb.sql(
        f"select id from read_parquet('{out}') order by cast(id[2:] as int)"
    ).fetchall()
    assert [row[0] for row in seen] == [f"t{i}" for i in range(20)]
    counts = duckdb.sql(
        "select status, count(*), count(score), sum(cost_usd), any_value(service_tier), "
        f"bool_and(request_id like '{arn}%') from read_parquet('{out}') group by 1 order by 1"
    ).fetchall()
    cost = 19 * (100 * 0.25 + 10 * 1.25) / 1e6 / 2
    assert counts == [
        ("error", 1, 0, None, None, True),
        ("ok", 19, 19, pytest.approx(cost), "batch", True),
    ]
