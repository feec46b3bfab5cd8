"""A batch job is paid for once: kills, races and failures between submission and answers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from labeling.engines.chat import ChatAnswer
from labeling.errors import LabelingError
from tests.labeling.engines.bedrock.batch_server import (
    BatchServer,
    answered,
    asked,
    engine_for,
    keys_of,
)

ASK = """
import sys
from tests.labeling.engines.bedrock.batch_server import BatchServer, asked, engine_for
engine_for(BatchServer(port=int(sys.argv[1]), bucket=sys.argv[2])).complete(asked("a", "b", "c"))
"""


def asking(server: BatchServer) -> subprocess.Popen[bytes]:
    """A process of its own that asks for a, b and c."""
    return subprocess.Popen([sys.executable, "-c", ASK, str(server.port), server.bucket])


def kill_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(10)


def texts_of(server: BatchServer) -> list[str | None]:
    return [answer.text for answer in engine_for(server).complete(asked("a", "b", "c"))]


ANSWERS = ["answer to a", "answer to b", "answer to c"]


def test_a_run_killed_while_it_waits_finds_its_job_again(bedrock):
    bedrock.statuses = ("InProgress",)
    kill_when(asking(bedrock), lambda: "job-0.json" in keys_of(bedrock))
    (job,) = bedrock.jobs.values()
    job["statuses"] = ["InProgress", "Completed"]
    assert texts_of(bedrock) == ANSWERS
    assert len(bedrock.jobs) == 1


@pytest.mark.parametrize("forgets", [False, True], ids=["by its token", "by its name"])
def test_a_run_killed_before_it_knew_its_job_finds_it_again(bedrock, forgets):
    bedrock.goes_on, bedrock.forgets_tokens = threading.Event(), forgets
    kill_when(asking(bedrock), lambda: len(bedrock.jobs) == 1)
    assert [key for key in keys_of(bedrock) if "job" in key] == []
    bedrock.goes_on.set()
    assert texts_of(bedrock) == ANSWERS
    assert len(bedrock.jobs) == 1


def test_a_run_killed_with_half_of_the_answers_gets_the_rest_from_the_same_job(bedrock):
    kept: list[str] = []

    def killed(answer: ChatAnswer) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(answer.key)

    requests = asked("a", "b", "c", "d", "e")
    with pytest.raises(KeyboardInterrupt):
        engine_for(bedrock).complete(requests, killed)
    rest = [request for request in requests if request.key not in kept]
    assert len(rest) == 3
    new = [replace(request, key=f"new {request.key}") for request in asked("f", "g", "h")]
    answers = engine_for(bedrock).complete(rest + new)
    texts = [r.messages[0]["content"] for r in rest + new]
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in texts]
    assert [len(records) for records in bedrock.inputs] == [5, 3]
    assert [key for key in keys_of(bedrock) if key.endswith("-0")] == []  # nothing is open now


def test_samples_of_one_text_are_told_apart_when_a_part_of_them_is_asked_again(bedrock):
    bedrock.replies = lambda place, record: [answered(record, str(place))]
    requests = [replace(request, seed=place) for place, request in enumerate(asked(*"aaaa"))]
    kept: list[ChatAnswer] = []

    def killed(answer: ChatAnswer) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(answer)

    with pytest.raises(KeyboardInterrupt):
        engine_for(bedrock).complete(requests, killed)
    rest = engine_for(bedrock).complete(requests[2:])
    assert [answer.text for answer in kept + rest] == ["0", "1", "2", "3"]
    assert len(bedrock.jobs) == 1


def test_a_finished_job_answers_the_same_again(bedrock):
    assert texts_of(bedrock) == texts_of(bedrock) == ANSWERS
    assert len(bedrock.jobs) == 1


def test_what_is_submitted_already_needs_no_budget(bedrock):
    assert texts_of(bedrock) == ANSWERS
    again = engine_for(bedrock, budget_usd=1e-9).complete(asked("a", "b", "c"))
    assert [answer.text for answer in again] == ANSWERS
    assert len(bedrock.jobs) == 1


def test_another_model_or_another_text_is_another_job(bedrock):
    texts_of(bedrock)
    engine_for(bedrock, model="amazon.nova-lite-v1:0").complete(asked("a", "b", "c"))
    engine_for(bedrock).complete(asked("a", "b", "d"))
    engine_for(bedrock).complete(asked("b", "a", "c"))
    assert len(bedrock.jobs) == 4


def test_those_who_ask_the_same_at_once_share_one_job(bedrock):
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(texts_of, [bedrock] * 4))
    assert answers == [ANSWERS] * 4
    assert len(bedrock.jobs) == 1


@pytest.mark.parametrize("ending", ["Failed", "Stopped", "Expired", "Completed"])
def test_a_job_that_answered_nothing_is_followed_by_another(bedrock, ending):
    bedrock.statuses, reply = (ending,), bedrock.replies
    bedrock.replies = lambda *_: []
    assert texts_of(bedrock) == [None] * 3
    assert len(bedrock.jobs) == 1
    bedrock.statuses, bedrock.replies = ("Completed",), reply
    assert texts_of(bedrock) == ANSWERS
    assert len(bedrock.jobs) == 2
    assert {"job-0.json", "job-1.json"} <= set(keys_of(bedrock))


def test_only_what_a_job_left_open_is_paid_for_again(bedrock):
    bedrock.statuses, reply = ("PartiallyCompleted",), bedrock.replies
    bedrock.replies = lambda place, record: [answered(record)] if place == 1 else []
    assert texts_of(bedrock) == [None, "answer to b", None]
    bedrock.replies = reply
    assert texts_of(bedrock) == [None, "answer to b", None]
    assert len(bedrock.jobs) == 1
    rest = engine_for(bedrock).complete(asked("a", "c"))
    assert [answer.text for answer in rest] == ["answer to a", "answer to c"]
    assert [len(records) for records in bedrock.inputs] == [3, 2]


def test_a_job_that_cannot_be_asked_about_goes_on_and_is_found_later(bedrock):
    bedrock.silence = (403, "ExpiredTokenException", "the token has expired")
    with pytest.raises(LabelingError, match=r"asking for arn:.*running this again finds them"):
        texts_of(bedrock)
    bedrock.silence = None
    assert texts_of(bedrock) == ANSWERS
    assert len(bedrock.jobs) == 1


def test_a_record_of_a_job_that_is_none_is_named(bedrock):
    texts_of(bedrock)
    (key,) = [
        item["Key"]
        for item in bedrock.s3.list_objects_v2(Bucket=bedrock.bucket)["Contents"]
        if item["Key"].endswith("job-0.json")
    ]
    for text in (b"", b"[1]", b'{"jobArn": 1}'):
        bedrock.s3.put_object(Bucket=bedrock.bucket, Key=key, Body=text)
        with pytest.raises(LabelingError, match=r"job-0.json is no record of a job; remove it"):
            texts_of(bedrock)


def test_a_job_that_aws_has_forgotten_says_what_to_remove(bedrock):
    texts_of(bedrock)
    bedrock.jobs.clear()
    with pytest.raises(LabelingError, match=r"asking for arn.*remove its job-\*.json"):
        texts_of(bedrock)
