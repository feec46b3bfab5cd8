"""Asking and asking again: what mends, with which seed and room, and in whose order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.judges.attempts import Attempt
from labeling.judges.calls import ask_and_repair, written_request
from labeling.label import Measurement
from tests.labeling.scripted_chat import Reply, ScriptedChat

FAILED = Measurement("error", status_detail="cannot be shown")


def request(question: str, sample: int, attempt: int) -> ChatRequest:
    messages = ({"role": "user", "content": question},)
    draw = f"{question} {sample} {attempt}"
    return written_request(
        messages, draw, attempt, max_tokens=10, temperature=0.5, schema={}, occasion="o"
    )


def read(question: str, found: Measurement, answer: ChatAnswer) -> tuple[Measurement, str | None]:
    """An answer says its own status."""
    if answer.status != "ok":
        return found, None
    score = 1.0 if answer.text == "ok" else None
    measured = replace(found, status=answer.text or "error", score=score, score_raw=score)
    return measured, f"about {question}"


def asked(
    replies: dict[tuple[int, int, int], Reply], questions: list[str | Measurement], **keys: object
) -> tuple[list[list[Attempt]], ScriptedChat]:
    engine = ScriptedChat(lambda *place: replies.get(place, "ok"))
    return ask_and_repair(engine, questions, request, read, score_method="m", **keys), engine  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["malformed", "off_schema", "truncated"])
def test_what_a_second_try_may_mend_is_asked_once_more(status: str):
    (attempts,), engine = asked({(0, 0, 0): status}, ["q"])
    assert [a.measurement.status for a in attempts] == [status, "ok"]
    assert [a.is_repair for a in attempts] == [False, True]
    assert {(a.rationale, a.score_method, a.sample) for a in attempts} == {("about q", "m", 0)}
    first, second = engine.calls
    assert (first.max_tokens, second.max_tokens) == (10, 20)
    assert replace(second, key=first.key, seed=first.seed, max_tokens=10) == first
    assert first.seed != second.seed


def test_a_second_failure_stands():
    (attempts,), _ = asked({(0, 0, 0): "malformed", (0, 0, 1): "malformed"}, ["q"])
    assert [a.measurement.status for a in attempts] == ["malformed", "malformed"]


@pytest.mark.parametrize(
    "reply", ["refusal", "ambiguous", {"status": "throttled"}, {"status": "empty"}]
)
def test_everything_else_is_asked_once(reply: Reply):
    (attempts,), engine = asked({(0, 0, 0): reply}, ["q"])
    assert (len(attempts), len(engine.calls)) == (1, 1)


def test_who_may_not_repair_asks_once():
    (attempts,), engine = asked({(0, 0, 0): "malformed"}, ["q"], may_repair=False)
    assert (len(attempts), len(engine.calls)) == (1, 1)


def test_a_repair_stands_behind_its_own_sample():
    done: list[int] = []
    rows, engine = asked(
        {(1, 0, 0): "malformed"}, ["a", "b", FAILED], samples=2, progress=done.append
    )
    assert [[(a.sample, a.is_repair) for a in row] for row in rows] == [
        [(0, False), (1, False)],
        [(0, False), (0, True), (1, False)],
        [(0, False)],
    ]
    assert rows[2] == [Attempt(FAILED)]
    assert [call.key for call in engine.calls] == ["0.0.0", "0.1.0", "1.0.0", "1.1.0", "1.0.1"]
    assert done == [1, 1, 1]  # the one that cannot be asked, then a and b by their first answers


def test_the_seed_is_the_first_31_bits_of_the_drawn_texts_hash():
    # sha256("a 0 0") = 10884d58...; >> 1 leaves a seed that every engine takes
    assert request("a", 0, 0).seed == 0x10884D58 >> 1
