"""A judge on Bedrock in batches, from its configuration to its label rows."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from labeling.labelers.build import build_labeler, labeler_revision
from labeling.labelers.config import LabelerConfig
from tests.labeling.engines.bedrock.batch_server import (
    MODEL,
    BatchServer,
    Record,
    answered,
    by_tool,
    config_of,
    failed,
)
from tests.labeling.scripted_chat import verdict
from tests.labeling.subjects import subjects
from warehouse.schemas import TABLES


def judge(server: BatchServer, *, in_batches: bool = True, **changes: object) -> LabelerConfig:
    engine = config_of(server.bucket).model_dump()
    settings = {
        "kind": "judge",
        "name": "claude",
        "role": "metric",
        "criterion": "helpfulness",
        "rubric": "helpfulness",
        "engine": engine | ({} if in_batches else {"batch": None}),
    }
    return TypeAdapter(LabelerConfig).validate_python(settings | changes)


def labelled(server: BatchServer, texts: list[str], **changes: object) -> list[dict[str, object]]:
    labeler = build_labeler(judge(server, **changes), device="cpu", resolve=lambda name: name)
    table = labeler.label(subjects(texts))
    labeler.close()
    assert isinstance(table, pa.Table)
    assert table.schema.equals(TABLES["labels"].schema)
    return table.to_pylist()


def test_every_subject_gets_its_row_and_the_row_says_how_it_came(bedrock):
    def reply(place: int, record: Record) -> list[Record]:
        choices = {1: [answered(record, "no verdict")], 2: [], 3: [failed(record, 429)]}
        return choices.get(place, [by_tool(record, 7)])

    bedrock.replies, bedrock.single = reply, verdict(5)
    rows = labelled(bedrock, list("abcde"))
    seen = [(r["rollout_id"], r["attempt"], r["status"], r["score_raw"]) for r in rows]
    assert seen == [
        ("r0", 0, "ok", 7.0),
        ("r1", 0, "malformed", None),
        ("r1", 1, "ok", 5.0),
        ("r2", 0, "error", None),
        ("r3", 0, "throttled", None),
        ("r4", 0, "ok", 7.0),
    ]
    assert [r["is_final"] for r in rows] == [True, False, True, True, True, True]
    assert [r["service_tier"] for r in rows] == ["batch", "batch", None, None, None, "batch"]
    (arn,) = bedrock.jobs
    assert rows[0]["request_id"] == f"{arn}/{bedrock.inputs[0][0]['recordId']}"
    assert rows[0]["cost_usd"] == pytest.approx(rows[2]["cost_usd"] / 2)
    assert rows[0]["price_table_version"] == "2026-03 x 0.5"
    assert (rows[0]["backend"], rows[0]["provider_region"]) == ("bedrock", "us-east-1")
    assert (rows[0]["rationale"], rows[0]["model"]) == ("because", MODEL)
    assert arn in rows[3]["error_message"]
    assert [r["cost_usd"] for r in rows[3:5]] == [None, None]


def test_samples_of_one_text_are_records_of_one_job(bedrock):
    bedrock.replies = lambda place, record: [by_tool(record, 1 + place % 2)]
    rows = labelled(bedrock, ["a", "b"], samples=2, temperature=1.0)
    assert [len(records) for records in bedrock.inputs] == [4]
    final = [row for row in rows if row["is_final"]]
    assert [row["score_raw"] for row in final] == [1.5, 1.5]


def test_a_judge_asked_in_batches_is_the_same_judge(bedrock):
    one, many = (judge(bedrock, in_batches=choice) for choice in (False, True))
    assert labeler_revision(one, str) == labeler_revision(many, str)


def test_a_job_is_told_of_in_the_log(bedrock, caplog):
    bedrock.replies = lambda _, record: [by_tool(record, 3)]
    with caplog.at_level(logging.INFO, logger="labeling"):
        labelled(bedrock, ["a", "b"])
    (arn,) = bedrock.jobs
    assert f"submitted batch job {arn}" in caplog.text
    assert f"{arn}: Completed" in caplog.text
