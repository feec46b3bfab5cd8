"""Judges behind an OpenAI-compatible endpoint: a real client against a real, faulty server."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.engines.config import OpenAIEngineConfig
from labeling.engines.load import load_chat_engine
from labeling.engines.remote.failures import retry_after_seconds
from labeling.errors import LabelingError
from tests.labeling.chat_server import ChatServer, Plan, serving

KEY = "sk-very-secret-0123456789"
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def request(text: str = "Hi", **fields: object) -> ChatRequest:
    messages = ({"role": "system", "content": "Judge."}, {"role": "user", "content": text})
    return ChatRequest(text, messages, 32, **fields)  # type: ignore[arg-type]


def engine(server: ChatServer, **settings: object) -> ChatEngine:
    about = {"kind": "openai", "base_url": server.base_url, "model": "judge-1", **settings}
    return load_chat_engine(OpenAIEngineConfig.model_validate(about))


def ask(server: ChatServer, *requests: ChatRequest, **settings: object) -> list[ChatAnswer]:
    return engine(server, **settings).complete(requests or [request()])


@contextmanager
def choosing(*kinds: str, **plan: object) -> Iterator[ChatServer]:
    """A server that treats every text's first calls as `kinds`, later ones well."""
    server = ChatServer(
        Plan(**plan),  # type: ignore[arg-type]
        choose=lambda _, attempt: kinds[attempt] if attempt < len(kinds) else "ok",
    )
    with serving(server):
        yield server


# ----- what is sent


def test_a_request_is_sent_as_it_was_asked_and_nothing_else():
    with choosing() as server:
        ask(server, request("A", temperature=0.3, seed=11, schema=SCHEMA))
        ask(server, request("B", top_logprobs=20))
    first, second = server.bodies
    assert first == {
        "model": "judge-1",
        "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": "A"}],
        "max_completion_tokens": 32,
        "temperature": 0.3,
        "seed": 11,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
        },
    }
    assert set(second) == {
        *("model", "messages", "max_completion_tokens", "temperature"),
        *("logprobs", "top_logprobs"),
    }
    assert (second["logprobs"], second["top_logprobs"]) == (True, 20)
    assert "guided" not in json.dumps(server.bodies)  # new vLLM servers pass over guided_*


def test_the_key_is_sent_and_none_but_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
    with choosing() as server:
        ask(server, api_key_env="JUDGE_KEY")
        ask(server)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "of-somebody-else" not in json.dumps(server.headers)


def test_a_key_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(LabelingError, match="environment variable JUDGE_KEY is not set; put"):
        engine(ChatServer(), api_key_env="JUDGE_KEY")


# ----- what comes back


def test_an_answer_brings_text_tokens_cost_and_where_it_is_from():
    price = {"input": 1.0, "output": 2.0}
    with choosing() as server:
        (got,) = ask(server, price=price)
    assert (got.key, got.status, got.text, got.stop_reason) == ("Hi", "ok", "answer to Hi", "stop")
    assert (got.input_tokens, got.output_tokens, got.cached_input_tokens) == (100, 10, 40)
    assert got.cost_usd == pytest.approx((100 * 1 + 10 * 2) / 1e6)
    assert got.price_table_version == "given"
    assert (got.model, got.request_id) == ("served-model", "chatcmpl-1")
    assert (got.retries, got.error_type, got.error_message) == (0, None, None)


def test_the_likelihoods_of_the_first_token_are_read():
    with choosing() as server:
        (got,) = ask(server, request(top_logprobs=2))
    assert got.first_token_logprobs == {"a": -0.1, " b": -2.5}


@pytest.mark.parametrize(
    ("kind", "status", "reason", "text"),
    [
        ("empty", "empty", "stop", None),
        ("length", "truncated", "length", "answer to Hi"),
        ("filtered", "filtered", "content_filter", "answer to Hi"),
        ("refusal", "ok", "stop", "I cannot do that."),
    ],
)
def test_how_it_stopped_is_the_status(kind: str, status: str, reason: str, text: str | None):
    with choosing(*[kind] * 9) as server:
        (got,) = ask(server)
    assert (got.status, got.stop_reason, got.text or None) == (status, reason, text)
    assert sum(server.calls.values()) == 1


def test_a_missing_usage_is_unknown_tokens_and_unknown_cost():
    with choosing("no_usage") as server:
        (got,) = ask(server, price={"input": 1.0, "output": 2.0})
    assert (got.status, got.input_tokens, got.output_tokens) == ("ok", None, None)
    assert (got.cost_usd, got.cached_input_tokens) == (None, None)


def test_a_usage_of_no_tokens_at_all_is_unknown_too():
    with choosing("zero_usage") as server:
        (got,) = ask(server, price={"input": 1.0, "output": 2.0})
    assert (got.status, got.text) == ("ok", "answer to Hi")
    assert (got.input_tokens, got.output_tokens, got.cost_usd) == (None, None, None)


# ----- what goes wrong


@pytest.mark.parametrize("kind", ["429", "500", "408", "424", "malformed", "no_choices", "cut"])
def test_what_passes_is_tried_again(kind: str):
    with choosing(kind) as server:
        (got,) = ask(server)
    assert (got.status, got.retries, got.text) == ("ok", 1, "answer to Hi")
    assert server.calls["Hi"] == 2


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("429", "throttled", "rate_limit_exceeded"),
        ("500", "error", "server_error"),
        ("408", "timeout", "timeout"),
        ("424", "error", "failed_dependency"),
        ("malformed", "error", "malformed_body"),
        ("no_choices", "error", "malformed_body"),
        ("cut", "error", "RemoteProtocolError"),
        ("reset", "error", "RemoteProtocolError"),
        ("slow", "timeout", "timeout"),
    ],
)
def test_what_does_not_pass_is_a_status_after_the_retries(kind: str, status: str, error: str):
    with choosing(*[kind] * 9, slow_delay=5) as server:
        (got,) = ask(server, max_retries=1, timeout_seconds=0.5 if kind == "slow" else 60)
    assert (got.status, got.error_type, got.retries) == (status, error, 1)
    assert got.text is None
    assert server.calls["Hi"] == 2


def test_a_wrong_request_is_not_tried_again():
    with choosing("400") as server:
        (got,) = ask(server)
    assert (got.status, got.error_type, got.retries) == ("error", "invalid_request", 0)
    assert got.error_message is not None
    assert got.error_message.startswith("HTTP 400: ")
    assert server.calls["Hi"] == 1


def test_a_prompt_that_is_filtered_is_a_row_of_that_status():
    with choosing("prompt_filtered") as server:
        (got,) = ask(server)
    assert (got.status, got.error_type, got.retries) == ("filtered", "content_filter", 0)


@pytest.mark.parametrize(
    ("kind", "what_to_do"),
    [
        ("401", "check the key in the environment variable JUDGE_KEY"),
        ("404", r"check engine\.model \(judge-1\) and engine\.base_url"),
        ("quota", "the account has nothing left"),
    ],
)
def test_a_refusal_of_everybody_says_what_to_do_and_never_shows_the_key(
    kind: str,
    what_to_do: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with (
        choosing(*[kind] * 9) as server,
        caplog.at_level(logging.DEBUG),
        pytest.raises(LabelingError, match=what_to_do) as refused,
    ):
        ask(server, *(request(f"t{n}") for n in range(50)), api_key_env="JUDGE_KEY")
    assert sum(server.calls.values()) <= 16
    shown = caplog.text + str(refused.getrepr(chain=True, showlocals=False))
    assert KEY not in shown


def test_a_key_that_an_endpoint_quotes_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with choosing("400") as server:
        (got,) = ask(server, api_key_env="JUDGE_KEY")
    assert got.error_message is not None
    assert "you sent Bearer ***" in got.error_message


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pytest.raises(LabelingError, match=rf"nobody answers: no connection to 127.0.0.1:{port}"):
        ask(ChatServer(port=port), max_retries=0)


def test_a_retry_waits_as_long_as_the_server_asks():
    with choosing("429", retry_after="0.6") as server:
        (got,) = ask(server)
    assert got.queued_seconds >= 0.6


def test_retry_after_is_seconds_or_a_date_and_nonsense_is_nothing():
    later = datetime.now(UTC) + timedelta(seconds=20)
    assert retry_after_seconds("1.5") == 1.5
    assert retry_after_seconds("-3") == 0
    assert retry_after_seconds(format_datetime(later, usegmt=True)) == pytest.approx(20, abs=2)
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for nothing in (None, "soon", "", "nan", "inf"):
        assert retry_after_seconds(nothing) is None


# ----- many


def test_of_many_calls_with_faults_none_is_lost_doubled_or_out_of_place():
    plan = Plan(delay=0.01, throttled=0.06, broken=0.06, malformed=0.06, retry_after="0.01")
    asked = [request(f"text {n}") for n in range(150)]
    with serving(ChatServer(plan)) as server:
        answers = ask(server, *asked, max_in_flight=8, max_retries=12)
    assert [(a.key, a.status, a.text) for a in answers] == [
        (r.key, "ok", f"answer to {r.key}") for r in asked
    ]
    assert set(server.answered.values()) == {1}
    assert server.most_in_flight <= 8
    assert {"429", "500", "malformed"} <= set(server.kinds)
    assert sum(a.retries for a in answers) == sum(server.calls.values()) - len(asked)


def test_an_engine_is_used_from_several_threads_and_again_after_its_close():
    with choosing() as server:
        judge = engine(server)
        made: list[ChatAnswer] = []
        threads = [
            threading.Thread(target=lambda n=n: made.extend(judge.complete([request(f"t{n}")])))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        judge.close()
        made += judge.complete([request("t4")])
    assert sorted(a.key for a in made) == [f"t{n}" for n in range(5)]


def test_a_body_that_comes_in_drops_is_a_timeout():
    with choosing(*["drops"] * 9) as server:
        started = time.monotonic()
        (got,) = ask(server, max_retries=0, timeout_seconds=0.5)
    assert got.status == "timeout"
    assert time.monotonic() - started < 3
