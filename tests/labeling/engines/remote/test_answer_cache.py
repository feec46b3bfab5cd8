"""Answers are paid for once: another night, inside a batch, after a kill and after a stop."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from labeling.engines.chat import BudgetSpent, ChatAnswer, ChatEngine, ChatRequest, PaidWork
from labeling.engines.config import OpenAIEngineConfig
from labeling.engines.load import load_chat_engine
from labeling.engines.remote.answer_cache import CachedChatEngine, forget_answers
from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.labelers.build import build_labeler, labeler_revision
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, Plan, serving
from tests.labeling.subjects import subjects

PRICE = {"input": 1.0, "output": 1.0}


def endpoint(base_url: str = "http://127.0.0.1:1/v1", **keys: object) -> OpenAIEngineConfig:
    settings = {"kind": "openai", "model": "m-1", "base_url": base_url, "price": PRICE, **keys}
    return OpenAIEngineConfig.model_validate(settings)


def cached(path: Path, config: OpenAIEngineConfig) -> CachedChatEngine:
    return CachedChatEngine(load_chat_engine(config), path, config)


def ask(texts: Sequence[str], **changes: object) -> list[ChatRequest]:
    return [
        dataclasses.replace(
            ChatRequest(str(i), ({"role": "user", "content": text},), 10, seed=1), **changes
        )
        for i, text in enumerate(texts)
    ]


class Counting:
    """Answers at once with what `reply` says, and counts."""

    name, version, model = "counting", "1", "m-1"

    def __init__(self, reply: Callable[[ChatRequest], dict[str, object]]) -> None:
        self._reply = reply
        self.asked: list[ChatRequest] = []

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        self.asked += requests
        answers = [ChatAnswer(request.key, **self._reply(request)) for request in requests]  # type: ignore[arg-type]
        for answer in answers if done is not None else []:
            done(answer)  # type: ignore[misc]
        return answers

    def close(self) -> None:
        pass


def counting(
    path: Path, config: OpenAIEngineConfig | None = None, status: str = "ok"
) -> tuple[ChatEngine, Counting]:
    inner = Counting(
        lambda r: {"status": status, "text": r.messages[-1]["content"].upper(), "cost_usd": 0.5}
    )
    return CachedChatEngine(inner, path, config or endpoint()), inner


# ----- what is asked once


def test_an_answer_is_paid_for_once_and_comes_back_as_it_was(tmp_path: Path):
    with serving(ChatServer()) as server:
        config = endpoint(server.base_url)
        first = cached(tmp_path / "a.sqlite", config).complete(ask(["hi", "ho"], top_logprobs=2))
        later = cached(tmp_path / "a.sqlite", config).complete(ask(["ho", "hi"], top_logprobs=2))
    assert server.calls == {"hi": 1, "ho": 1}
    assert [answer.is_cached for answer in first + later] == [False, False, True, True]
    assert first[0].cost_usd == pytest.approx((INPUT_TOKENS + OUTPUT_TOKENS) / 1e6)
    again = later[1]
    assert again == dataclasses.replace(
        first[0], key="1", is_cached=True, cost_usd=0.0, retries=0, seconds=0.0, queued_seconds=0.0
    )
    assert (again.input_tokens, again.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert again.first_token_logprobs


def test_equal_requests_of_one_batch_are_sent_once_and_all_answered_in_order(tmp_path: Path):
    engine, inner = counting(tmp_path / "a.sqlite")
    told: list[ChatAnswer] = []
    answers = engine.complete(ask(["a", "b", "a", "a"]), told.append)
    assert [answer.text for answer in answers] == ["A", "B", "A", "A"]
    assert [answer.key for answer in answers] == ["0", "1", "2", "3"]
    assert [request.key for request in inner.asked] == ["0", "1"]
    assert [answer.cost_usd for answer in answers] == [0.5, 0.5, 0.0, 0.0]
    assert sorted(answer.key for answer in told) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"temperature": 0.5},
        {"max_tokens": 11},
        {"schema": {"type": "object"}},
        {"top_logprobs": 5},
        {"messages": ({"role": "system", "content": "a"},)},
    ],
)
def test_another_question_is_asked(tmp_path: Path, change: dict[str, object]):
    engine, inner = counting(tmp_path / "a.sqlite")
    engine.complete(ask(["a"]))
    assert engine.complete(ask(["a"], **change))[0].is_cached is False
    assert len(inner.asked) == 2


def test_another_endpoint_or_model_is_asked_and_another_speed_is_not(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    counting(path)[0].complete(ask(["a"]))
    for keys in ({"base_url": "http://127.0.0.1:2/v1"}, {"model": "m-2"}):
        assert counting(path, endpoint(**keys))[0].complete(ask(["a"]))[0].is_cached is False
    faster = endpoint(max_in_flight=99, timeout_seconds=1, price={"input": 2, "output": 2})
    assert counting(path, faster)[0].complete(ask(["a"]))[0].is_cached is True


@pytest.mark.parametrize(
    ("status", "is_kept"),
    [("ok", True), ("empty", True), ("truncated", True), ("filtered", True)]
    + [(status, False) for status in ("throttled", "timeout", "error")],
)
def test_only_what_would_come_again_is_kept(tmp_path: Path, status: str, is_kept: bool):
    counting(tmp_path / "a.sqlite", status=status)[0].complete(ask(["a"]))
    (later,) = counting(tmp_path / "a.sqlite")[0].complete(ask(["a"]))
    assert later.is_cached is is_kept
    assert later.status == (status if is_kept else "ok")


# ----- two nights of a judge


def judge(server: ChatServer, **keys: object) -> JudgeConfig:
    settings = {
        "kind": "judge", "name": "api", "role": "shadow", "criterion": "helpfulness",
        "rubric": "helpfulness", "engine": endpoint(server.base_url).model_dump(), **keys,
    }  # fmt: skip
    return JudgeConfig.model_validate(settings)


def night(
    config: JudgeConfig, path: Path, texts: list[str], number: int
) -> list[dict[str, object]]:
    labeler = build_labeler(config, device="cpu", resolve=str, paid=PaidWork(answers=path))
    table = subjects(texts)
    ids = [f"{number}-p{i}-0" for i in range(len(texts))]
    rows = labeler.label(table.set_column(0, "rollout_id", [ids])).to_pylist()
    labeler.close()
    return rows


def test_the_same_text_another_night_costs_nothing_and_its_row_says_so(tmp_path: Path):
    with serving(ChatServer()) as server:
        config = judge(server)
        first = night(config, tmp_path / "a.sqlite", ["Sure.", "No."], 0)
        calls = sum(server.calls.values())
        second = night(config, tmp_path / "a.sqlite", ["No.", "Sure.", "New."], 1)
        fresh = [row for row in second if not row["is_cached"]]
        assert sum(server.calls.values()) == calls + len(fresh)
    assert {row["rollout_id"] for row in fresh} == {"1-p2-0"}
    assert {row["is_cached"] for row in first} == {False}
    assert all(row["cost_usd"] > 0 and row["input_tokens"] == INPUT_TOKENS for row in first)  # type: ignore[operator]
    for row in second:
        if row["is_cached"]:
            assert (row["cost_usd"], row["input_tokens"]) == (0.0, INPUT_TOKENS)
            assert (row["latency_ms"], row["queue_ms"]) == (None, None)  # there was no call
            assert row["request_id"] == first[0]["request_id"]
    first_of = {row["rollout_id"]: row["raw_output"] for row in first if row["is_final"]}
    second_of = {row["rollout_id"]: row["raw_output"] for row in second if row["is_final"]}
    assert (second_of["1-p0-0"], second_of["1-p1-0"]) == (first_of["0-p1-0"], first_of["0-p0-0"])


def test_a_judge_may_ask_afresh_every_time(tmp_path: Path):
    with serving(ChatServer()) as server:
        config = judge(server, reuse_answers=False)
        for number in range(2):
            rows = night(config, tmp_path / "a.sqlite", ["Sure."], number)
            assert {row["is_cached"] for row in rows} == {False}
        assert set(server.calls.values()) == {2 * len(rows)}
        assert labeler_revision(config, str) == labeler_revision(judge(server), str)


def test_samples_of_one_text_are_asked_each_and_once(tmp_path: Path):
    with serving(ChatServer()) as server:
        config = judge(server, samples=3, temperature=1.0)
        night(config, tmp_path / "a.sqlite", ["Sure."], 0)
        seeds = [body["seed"] for body in server.bodies]
        assert len(seeds) == len(set(seeds)) == 6  # three samples, each asked for once more
        night(config, tmp_path / "a.sqlite", ["Sure."], 1)
        assert len(server.bodies) == 6


# ----- accidents


def test_a_stopped_batch_keeps_what_it_paid_for(tmp_path: Path):
    texts = [f"text {i}" for i in range(30)]
    with serving(ChatServer()) as server:
        poor = endpoint(server.base_url, budget_usd=0.002, max_in_flight=2)
        with pytest.raises(BudgetSpent):
            cached(tmp_path / "a.sqlite", poor).complete(ask(texts))
        paid = sum(server.calls.values())
        assert 0 < paid < 30
        answers = cached(tmp_path / "a.sqlite", endpoint(server.base_url)).complete(ask(texts))
    assert set(server.calls.values()) == {1}
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in texts]
    assert sum(answer.is_cached for answer in answers) == paid


def complete_all(base_url: str, path: Path, texts: list[str]) -> None:
    cached(path, endpoint(base_url)).complete(ask(texts))


def test_killed_in_the_middle_of_a_batch_no_answer_is_paid_for_twice(tmp_path: Path):
    path, texts = tmp_path / "a.sqlite", [f"text {i}" for i in range(24)]
    server = ChatServer(Plan(slow_delay=60), lambda text, n: "slow" if text > "text 2" and n == 0
                        else "ok")  # fmt: skip
    quick = {text for text in texts if text <= "text 2"}
    with serving(server):
        start = multiprocessing.get_context("spawn")
        process = start.Process(target=complete_all, args=(server.base_url, path, texts))
        process.start()
        deadline = time.monotonic() + 60
        while kept(path) < len(quick):
            assert process.is_alive(), "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.join()
        answers = cached(path, endpoint(server.base_url)).complete(ask(texts))
        assert server.answered == dict.fromkeys(texts, 1)
        assert {text for text in texts if server.calls[text] == 1} >= quick
    assert {a.text for a in answers if a.is_cached} == {f"answer to {text}" for text in quick}
    assert [answer.text for answer in answers] == [f"answer to {text}" for text in texts]


def kept(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as con:
            return int(con.execute("select count(*) from answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_processes_share_the_file(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    with serving(ChatServer(Plan(delay=0.01))) as server:
        start = multiprocessing.get_context("spawn")
        processes = [
            start.Process(target=complete_all, args=(
                server.base_url, path, [f"text {i}" for i in range(40 * n, 40 * n + 60)]))
            for n in range(2)
        ]  # fmt: skip
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert kept(path) == 100
        calls = sum(server.calls.values())
        complete_all(server.base_url, path, [f"text {i}" for i in range(100)])
        assert sum(server.calls.values()) == calls


def test_a_damaged_row_is_asked_again_and_costs_no_other(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    engine, inner = counting(path)
    engine.complete(ask(["a", "b", "c", "d"]))
    with closing(sqlite3.connect(path)) as con:
        rows = con.execute("select request, answer from answers order by answer").fetchall()
        con.execute("update answers set answer = '{' where request = ?", (rows[0][0],))
        swapped = rows[1][1].replace('"B"', '"X"')
        con.execute("update answers set answer = ? where request = ?", (swapped, rows[1][0]))
        con.execute("update answers set check_sha256 = x'00' where request = ?", (rows[2][0],))
        con.commit()
    answers = engine.complete(ask(["a", "b", "c", "d"]))
    assert [answer.text for answer in answers] == ["A", "B", "C", "D"]
    assert [answer.is_cached for answer in answers] == [False, False, False, True]
    assert all(answer.is_cached for answer in engine.complete(ask(["a", "b", "c", "d"])))
    assert len(inner.asked) == 7


def test_answers_that_are_meant_and_damaged_ones_are_forgotten(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    assert forget_answers(path, lambda _: True, dry_run=False) == []
    engine, inner = counting(path)
    engine.complete(ask(["a", "b", "c"]))
    with closing(sqlite3.connect(path)) as con:
        con.execute("update answers set answer = '{' where answer like '%\"C\"%'")
        con.commit()
    assert len(forget_answers(path, lambda answer: answer.text == "A", dry_run=True)) == 2
    assert kept(path) == 3
    assert len(forget_answers(path, lambda answer: answer.text == "A", dry_run=False)) == 2
    assert kept(path) == 1
    engine.complete(ask(["a", "b", "c"]))
    assert len(inner.asked) == 5


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database at all, but a text" * 99)
    with pytest.raises(LabelingError, match=r"a\.sqlite: .*delete it"):
        forget_answers(path, lambda _: True, dry_run=True)


@pytest.mark.parametrize("content", [b"no database at all, but a text" * 99, None])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
):
    path = tmp_path / "a.sqlite"
    if content is None:  # the first pages of a real one overwritten
        counting(path)[0].complete(ask(["a"]))
        content = path.read_bytes()
        content = content[:100] + b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert counting(path)[0].complete(ask(["a"]))[0].is_cached is False
    assert "is damaged" in caplog.text
    assert (tmp_path / "a.sqlite.damaged").exists()
    assert counting(path)[0].complete(ask(["a"]))[0].is_cached is True


def test_where_no_file_can_be_made_every_call_is_paid_and_the_night_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.sqlite").mkdir()
    engine, inner = counting(tmp_path / "a.sqlite")
    for _ in range(2):
        assert [answer.text for answer in engine.complete(ask(["a", "a"]))] == ["A", "A"]
    assert len(inner.asked) == 2
    assert "answers are not kept, every call is paid" in caplog.text
