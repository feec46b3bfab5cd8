"""Bedrock's batch inference: a real S3 server, jobs by a server that checks what it is asked."""

from __future__ import annotations

import threading

import pytest

from labeling.engines.bedrock.batch import BedrockBatchEngine
from labeling.engines.bedrock.converse import BedrockChatEngine
from labeling.engines.chat import BudgetSpent, ChatAnswer
from labeling.engines.load import load_chat_engine
from labeling.engines.prices import Price, worst_cost
from labeling.engines.remote.shared_limits import Limits
from labeling.errors import LabelingError
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.engines.bedrock.batch_server import (
    MODEL,
    Record,
    answered,
    asked,
    config_of,
    engine_for,
    failed,
    keys_of,
)

# USD of one call on demand: 0.25 and 1.25 per million tokens.
COST = (INPUT_TOKENS * 0.25 + OUTPUT_TOKENS * 1.25) / 1e6


def by_place(*replies: Record | str | None) -> object:
    """The outcome of each record: an answer's text, an output line's rest, or nothing."""

    def reply(place: int, record: Record) -> list[Record]:
        made = replies[place]
        if made is None:
            return []
        return [answered(record, made) if isinstance(made, str) else record | made]

    return reply


# ----- what comes back


def test_answers_come_in_the_order_of_the_requests_however_the_files_are_shuffled(bedrock):
    texts = [f"q{i}" for i in range(40)] + ["ü \u2028 \n"]
    done: list[ChatAnswer] = []
    answers = engine_for(bedrock, batch={"max_records": 30}).complete(asked(*texts), done.append)
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in texts]
    assert [answer.key for answer in answers] == [f"{i}.0.0" for i in range(41)]
    assert sorted(answer.key for answer in done) == sorted(answer.key for answer in answers)
    assert [len(records) for records in bedrock.inputs] == [30, 11]
    assert bedrock.calls == {}
    first = answers[0]
    assert (first.input_tokens, first.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert first.cost_usd == pytest.approx(COST / 2)
    assert (first.price_table_version, first.service_tier) == ("2026-03 x 0.5", "batch")
    assert first.request_id == f"{next(iter(bedrock.jobs))}/{bedrock.inputs[0][0]['recordId']}"
    assert (first.seconds, first.model) == (0.001, MODEL)
    assert first.queued_seconds > 0


def test_a_job_is_named_by_what_it_asks_and_its_arn_lies_beside_the_input(bedrock):
    engine_for(bedrock).complete(asked("a", "b"))
    assert keys_of(bedrock) == [
        "input.jsonl",
        "job-0.json",
        *(f"output-0/000000000000/{name}.jsonl.out" for name in ("input", "input1")),
        "output-0/000000000000/manifest.json.out",
    ]
    (job,) = bedrock.jobs.values()
    assert job["jobName"] == f"roundhouse-{job['clientRequestToken']}"
    assert (
        job["clientRequestToken"].removesuffix("-0")
        in job["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
    )


def test_every_record_gets_its_own_outcome_and_no_neighbour_pays_for_it(bedrock, caplog):
    bedrock.replies = by_place(
        "good",
        None,
        {"error": {"errorCode": 400, "errorMessage": "bad request"}},
        {"error": {"errorCode": 429, "errorMessage": "slow down"}},
        {"error": {"errorCode": "ModelTimeoutException", "errorMessage": "late"}},
        {"error": {"errorCode": "Strange", "errorMessage": "?"}},
        {"error": "no object"},
        {"modelOutput": {"output": {"message": None}, "stopReason": "end_turn"}},
        {"modelOutput": "no object"},
        {"modelOutput": None},
        {"recordId": "99999999999", "modelOutput": {}},
        "last",
    )
    answers = engine_for(bedrock).complete(asked(*map(str, range(12))))
    assert [(answer.status, answer.error_type) for answer in answers] == [
        ("ok", None),
        ("error", "MissingRecord"),
        ("error", "record_400"),
        ("throttled", "record_429"),
        ("timeout", "record_ModelTimeoutException"),
        ("error", "record_Strange"),
        ("error", "malformed_record"),
        ("error", "malformed_body"),
        ("error", "malformed_body"),
        ("error", "malformed_body"),
        ("error", "MissingRecord"),
        ("ok", None),
    ]
    (arn,) = bedrock.jobs
    assert all(arn in answer.error_message for answer in answers[1:-1])
    assert "bad request" in answers[2].error_message
    assert "1 records of unknown or repeated recordId" in caplog.text


def test_of_two_records_for_one_request_an_answer_goes_before_an_error(bedrock):
    def twice(place: int, record: Record) -> list[Record]:
        return [failed(record, 500), answered(record), failed(record, 400)]

    bedrock.replies = twice
    answers = engine_for(bedrock).complete(asked("a", "b", "c"))
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in "abc"]


def test_a_line_that_is_no_record_costs_only_itself(bedrock, caplog):
    bedrock.torn = '{"recordId": "000\n[]\n\nnull\n\ufffd\n'
    answers = engine_for(bedrock).complete(asked("a", "b"))
    assert [answer.status for answer in answers] == ["ok", "ok"]
    assert "torn.jsonl.out, line 1 is no record" in caplog.text


@pytest.mark.parametrize(
    ("ending", "status", "error_type"),
    [
        ("PartiallyCompleted", "error", "MissingRecord"),
        ("Expired", "timeout", "JobExpired"),
        ("Stopped", "error", "JobStopped"),
        ("Failed", "error", "JobFailed"),
    ],
)
def test_what_came_of_a_job_that_did_not_end_well_is_kept(bedrock, ending, status, error_type):
    bedrock.statuses, bedrock.message = ("Validating", "Stopping", ending), "the reason"
    bedrock.replies = by_place("good", None, None)
    good, *rest = engine_for(bedrock).complete(asked("a", "b", "c"))
    assert (good.status, good.text) == ("ok", "good")
    (arn,) = bedrock.jobs
    for answer in rest:
        assert (answer.status, answer.error_type) == (status, error_type)
        assert arn in answer.error_message
        assert "the reason" in answer.error_message
        assert (answer.text, answer.cost_usd, answer.service_tier) == (None, None, None)


# ----- few, many, none


def test_too_few_for_a_job_are_asked_one_by_one_at_the_price_on_demand(bedrock):
    engine = engine_for(bedrock, batch={"max_records": 3})
    answers = engine.complete(asked("a", "b", "c", "d"))
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in "abcd"]
    assert [len(records) for records in bedrock.inputs] == [3]
    assert dict(bedrock.calls) == {"d": 1}
    assert answers[3].cost_usd == pytest.approx(COST)
    assert (answers[3].service_tier, answers[3].price_table_version) == (None, "2026-03")
    assert engine.complete([]) == []


def test_a_job_is_no_larger_than_its_bytes_may_be(bedrock):
    engine_for(bedrock, batch={"max_bytes": 3000}).complete(asked(*(c * 1000 for c in "abcdef")))
    assert [len(records) for records in bedrock.inputs] == [2, 2, 2]


# ----- money


def test_a_job_that_could_cost_more_than_the_budget_is_not_submitted(bedrock):
    engine = engine_for(bedrock, budget_usd=1e-6)
    with pytest.raises(BudgetSpent, match="budget"):
        engine.complete(asked("a", "b"))
    assert bedrock.jobs == {}
    assert keys_of(bedrock) == []


def test_batches_and_single_calls_draw_on_one_budget(bedrock):
    worst = 2 * ((1 + 32) * 0.25 + 10 * 1.25) / 1e6 / 2  # of two calls, in a batch
    engine = engine_for(bedrock, budget_usd=worst + COST / 2)
    engine.complete(asked("a", "b"))  # costs COST
    with pytest.raises(BudgetSpent):
        engine.complete(asked("c", "d"))
    with pytest.raises(BudgetSpent):
        engine.complete(asked("e" * 200))
    assert len(bedrock.jobs) == 1
    assert bedrock.calls == {}


def test_a_batch_waits_until_the_budget_has_room_beside_calls_in_flight(bedrock):
    config, price = config_of(bedrock.bucket), Price(1.0, 1.0, "p")
    on_demand = BedrockChatEngine(config, Limits(1, None, 1e-4, 0), price)
    budget = on_demand.budget
    budget.set_aside(1e-4)
    jobs_before: list[int] = []

    def free() -> None:
        jobs_before.append(len(bedrock.jobs))
        budget.settle(1e-4, 0.0)

    threading.Timer(0.5, free).start()
    answers = BedrockBatchEngine(config, on_demand, price).complete(asked("a", "b"))
    assert [answer.status for answer in answers] == ["ok", "ok"]
    assert jobs_before == [0]


def test_what_bedrock_did_not_count_takes_its_worst_from_the_budget_and_has_no_cost(bedrock):
    def uncounted(place: int, record: Record) -> list[Record]:
        line = answered(record)
        del line["modelOutput"]["usage"]
        return [line, failed(record, 500)] if place == 0 else [failed(record, 500)]

    bedrock.replies = uncounted
    config, price = config_of(bedrock.bucket), Price(1.0, 1.0, "p")
    on_demand = BedrockChatEngine(config, Limits(1, None, 1.0, 0), price)
    requests = asked("a", "b")
    first, second = BedrockBatchEngine(config, on_demand, price).complete(requests)
    assert (first.status, first.input_tokens, first.cost_usd) == ("ok", None, None)
    assert (second.status, second.cost_usd) == ("error", None)
    assert on_demand.budget.spent == pytest.approx(worst_cost(price, requests[0]))


def test_a_price_of_ones_own_brings_its_own_discount(bedrock):
    price = {"input": 1.0, "output": 1.0, "batch": 0.25}
    answers = engine_for(bedrock, price=price).complete(asked("a", "b"))
    assert answers[0].cost_usd == pytest.approx((INPUT_TOKENS + OUTPUT_TOKENS) / 4e6)
    assert answers[0].price_table_version == "given x 0.25"


# ----- who is refused


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((403, "AccessDeniedException", "no"), "iam:PassRole for arn:aws:iam::123456789012"),
        ((400, "ValidationException", "cannot assume role"), "may take on arn:aws:iam"),
        ((400, "ServiceQuotaExceededException", "20 jobs"), "other jobs have ended"),
        ((404, "ResourceNotFoundException", "no model"), f"check the model {MODEL}"),
    ],
)
def test_a_refused_job_is_an_error_that_says_what_to_do(bedrock, refusal, advice):
    bedrock.refusal = refusal
    with pytest.raises(LabelingError, match=advice) as error:
        engine_for(bedrock).complete(asked("a", "b"))
    assert refusal[2] in str(error.value)
    bedrock.refusal = None  # mended, the same again
    assert [a.status for a in engine_for(bedrock).complete(asked("a", "b"))] == ["ok", "ok"]


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(bedrock):
    engine = engine_for(bedrock, batch={"s3_uri": "s3://nowhere/x"})
    with pytest.raises(LabelingError, match=r"s3://nowhere/x.*NoSuchBucket.*in us-east-1"):
        engine.complete(asked("a", "b"))


def test_without_credentials_there_is_no_job(bedrock, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(LabelingError, match="check the AWS credentials"):
        engine_for(bedrock).complete(asked("a", "b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s3_uri": "bucket/x"}, "s3_uri"),
        ({"role_arn": "batch"}, "role_arn"),
        ({"min_records": 10, "max_records": 5}, "above max_records"),
        ({"timeout_hours": 1}, "timeout_hours"),
        ({"input_type": "InvokeModel"}, "input_type"),
    ],
)
def test_a_batch_section_that_aws_would_refuse_is_refused_at_the_start(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of("bucket", batch=changes)


def test_a_batch_engine_is_chosen_by_the_batch_section(bedrock):
    assert isinstance(engine_for(bedrock), BedrockBatchEngine)
    assert not isinstance(
        load_chat_engine(config_of("b-1").model_copy(update={"batch": None})), BedrockBatchEngine
    )
