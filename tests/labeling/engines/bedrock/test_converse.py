"""Judges on Bedrock: requests in the shape of its own service model, and a faulty server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import boto3
import pytest
from botocore.stub import Stubber

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.engines.config import BedrockEngineConfig
from labeling.engines.load import load_chat_engine
from labeling.errors import LabelingError
from tests.labeling.chat_bodies import converse_body
from tests.labeling.chat_server import ChatServer, Plan, serving

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
LLAMA = "meta.llama3-1-8b-instruct-v1:0"
HAIKU = "us.anthropic.claude-3-5-haiku-20241022-v1:0"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp() / "none"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def request(text: str = "Hi", **fields: object) -> ChatRequest:
    messages = ({"role": "system", "content": "Judge."}, {"role": "user", "content": text})
    return ChatRequest(text, messages, 32, **fields)  # type: ignore[arg-type]


def engine(**settings: object) -> ChatEngine:
    about = {"kind": "bedrock", "region": "us-east-1", "model": LLAMA, **settings}
    return load_chat_engine(BedrockEngineConfig.model_validate(about))


@contextmanager
def stubbed() -> Iterator[Stubber]:
    """Bedrock's client without a wire: requests and answers are checked by its service model."""
    client = boto3.client("bedrock-runtime", region_name="us-east-1")
    with patch.object(boto3.Session, "client", return_value=client), Stubber(client) as stubber:
        yield stubber


def sent(expected: dict[str, Any], body: dict[str, Any], *asked: ChatRequest, **settings: object):
    """The answers, once the request is found to be exactly `expected`."""
    with stubbed() as stubber:
        stubber.add_response("converse", body, expected)
        answers = engine(**settings).complete(asked)
        stubber.assert_no_pending_responses()
    return answers


@contextmanager
def choosing(*kinds: str, **plan: object) -> Iterator[ChatServer]:
    """A server that treats every text's first calls as `kinds`, later ones well."""
    server = ChatServer(
        Plan(**plan),  # type: ignore[arg-type]
        choose=lambda _, attempt: kinds[attempt] if attempt < len(kinds) else "ok",
    )
    with serving(server):
        yield server


def ask(server: ChatServer, *requests: ChatRequest, **settings: object) -> list[ChatAnswer]:
    url = f"http://127.0.0.1:{server.port}"
    judge = engine(endpoint_url=url, **settings)
    try:
        return judge.complete(requests or [request()])
    finally:
        judge.close()


# ----- what is sent


def asked_of(model: str, **more: object) -> dict[str, Any]:
    return {
        "modelId": model,
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
        "system": [{"text": "Judge."}],
        "inferenceConfig": {"maxTokens": 32, "temperature": 0.0},
        **more,
    }


def test_system_messages_stand_apart_and_a_seed_is_not_sent():
    (got,) = sent(asked_of(LLAMA), converse_body("Fine.", "end_turn"), request(seed=3))
    assert (got.key, got.status, got.text, got.stop_reason) == ("Hi", "ok", "Fine.", "end_turn")
    assert (got.input_tokens, got.output_tokens, got.model) == (100, 10, LLAMA)


def test_a_model_that_calls_tools_is_made_to_call_the_verdict():
    tool = {"toolSpec": {"name": "verdict", "inputSchema": {"json": SCHEMA}}}
    forced = {"tools": [tool], "toolChoice": {"tool": {"name": "verdict"}}}
    body = converse_body("", "tool_use")
    use = {"toolUseId": "1", "name": "verdict", "input": {"score": 7, "why": "schön"}}
    body["output"] = {"message": {"role": "assistant", "content": [{"toolUse": use}]}}
    asked = request(schema=SCHEMA)
    (got,) = sent(asked_of(HAIKU, toolConfig=forced), body, asked, model=HAIKU)
    assert (got.status, got.stop_reason) == ("ok", "tool_use")
    assert json.loads(got.text) == {"score": 7, "why": "schön"}


def test_a_model_that_may_not_call_tools_is_not_made_to():
    (got,) = sent(
        asked_of(LLAMA), converse_body('{"score": 7}', "end_turn"), request(schema=SCHEMA)
    )
    assert got.text == '{"score": 7}'


def test_what_it_thinks_is_not_what_it_says():
    body = converse_body("", "end_turn")
    thinking = {"reasoningContent": {"reasoningText": {"text": "I think 3"}}}
    said = [{"text": "Sev"}, thinking, {"text": "en"}]
    body["output"] = {"message": {"role": "assistant", "content": said}}
    (got,) = sent(asked_of(LLAMA), body, request())
    assert got.text == "Seven"


def test_tokens_from_a_cache_are_input_too_and_told_apart():
    body = converse_body("Fine.", "end_turn")
    usage = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 75}
    body["usage"] = usage | {"cacheReadInputTokens": 40, "cacheWriteInputTokens": 20}
    (got,) = sent(asked_of(LLAMA), body, request(), price={"input": 1.0, "output": 2.0})
    assert (got.input_tokens, got.cached_input_tokens, got.output_tokens) == (70, 40, 5)
    assert got.cost_usd == pytest.approx((70 * 1 + 5 * 2) / 1e6)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("end_turn", "ok"),
        ("stop_sequence", "ok"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("guardrail_intervened", "filtered"),
        ("content_filtered", "filtered"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
    ],
)
def test_how_it_stopped_is_the_status(reason: str, status: str):
    (got,) = sent(asked_of(LLAMA), converse_body("7", reason), request())
    assert (got.status, got.stop_reason, got.text) == (status, reason, "7")
    assert got.error_type == ("stop_reason" if status == "error" else None)


def test_a_temperature_that_bedrock_does_not_take_is_said_before_anything_is_sent():
    with (
        choosing() as server,
        pytest.raises(LabelingError, match=r"temperatures up to 1, not 1\.5"),
    ):
        ask(server, request(temperature=1.5))
    assert not server.calls


# ----- errors by Bedrock's names, as botocore raises them


@pytest.mark.parametrize(
    ("code", "http", "status"),
    [
        ("ThrottlingException", 429, "throttled"),
        ("ModelNotReadyException", 429, "throttled"),
        ("ServiceUnavailableException", 503, "error"),
        ("InternalServerException", 500, "error"),
        ("ModelTimeoutException", 408, "timeout"),
        ("ModelErrorException", 424, "error"),
    ],
)
def test_errors_that_pass_are_tried_again_and_the_last_one_is_the_status(
    code: str, http: int, status: str
):
    with stubbed() as stubber:
        for _ in range(2):
            stubber.add_client_error("converse", code, "later", http_status_code=http)
        (got,) = engine(max_retries=1).complete([request()])
        stubber.assert_no_pending_responses()
        assert (got.status, got.error_type, got.retries) == (status, code, 1)
        stubber.add_client_error("converse", code, "later", http_status_code=http)
        stubber.add_response("converse", converse_body("Fine.", "end_turn"))
        (got,) = engine().complete([request()])
    assert (got.status, got.text, got.retries) == ("ok", "Fine.", 1)


def test_a_wrong_request_is_not_tried_again():
    with stubbed() as stubber:
        stubber.add_client_error("converse", "ValidationException", "too long", 400)
        (got,) = engine().complete([request()])
    assert (got.status, got.error_type, got.retries) == ("error", "ValidationException", 0)
    assert got.error_message == "HTTP 400: too long"


@pytest.mark.parametrize(
    ("code", "http", "message", "what_to_do"),
    [
        ("AccessDeniedException", 403, "", "check the AWS credentials and bedrock:InvokeModel"),
        ("UnrecognizedClientException", 403, "", "check the AWS credentials"),
        ("ExpiredTokenException", 403, "", "check the AWS credentials"),
        ("ResourceNotFoundException", 404, "", r"check engine\.model and its access"),
        (
            *("ValidationException", 400, "The provided model identifier is invalid."),
            "identifier is invalid.; check the model",
        ),
        (
            *("ValidationException", 400, "Invocation with on-demand throughput isn't supported."),
            "check the model",
        ),
    ],
)
def test_a_refusal_of_everybody_says_where_and_what_to_do(
    code: str, http: int, message: str, what_to_do: str
):
    with stubbed() as stubber:
        stubber.add_client_error("converse", code, message, http_status_code=http)
        with pytest.raises(LabelingError, match=what_to_do) as refused:
            engine(max_in_flight=1).complete([request(f"t{n}") for n in range(9)])
    assert f"Bedrock in us-east-1, profile default, model {LLAMA}" in str(refused.value)


def test_missing_credentials_and_unknown_profiles_are_errors_that_name_them(
    monkeypatch: pytest.MonkeyPatch,
):
    with pytest.raises(LabelingError, match=r"us-east-1.*nobody"):
        engine(profile="nobody")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with choosing() as server, pytest.raises(LabelingError, match="Unable to locate credentials"):
        ask(server)


# ----- over the wire


@pytest.mark.parametrize("kind", ["429", "500", "408", "424", "malformed", "cut", "reset"])
def test_what_passes_is_tried_again_by_us_and_not_by_botocore(kind: str):
    with choosing(kind) as server:
        (got,) = ask(server)
    assert (got.status, got.retries, got.text) == ("ok", 1, "answer to Hi")
    assert server.calls["Hi"] == 2


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("429", "throttled", "ThrottlingException"),
        ("malformed", "error", "malformed_body"),
        ("no_choices", "error", "malformed_body"),
        ("cut", "error", "malformed_body"),
        ("reset", "error", "ConnectionClosedError"),
        ("slow", "timeout", "ReadTimeoutError"),
    ],
)
def test_what_does_not_pass_is_a_status_after_the_retries(kind: str, status: str, error: str):
    with choosing(*[kind] * 9, slow_delay=5) as server:
        (got,) = ask(server, max_retries=1, timeout_seconds=0.5 if kind == "slow" else 60)
    assert (got.status, got.error_type, got.retries) == (status, error, 1)
    assert got.text is None
    assert server.calls["Hi"] == 2


def test_a_missing_usage_is_unknown_tokens_and_unknown_cost():
    with choosing("no_usage", "zero_usage") as server:
        answers = ask(server, request(), request(), price={"input": 1.0, "output": 2.0})
    for got in answers:
        assert (got.status, got.input_tokens, got.output_tokens, got.cost_usd) == (
            *("ok", None, None, None),
        )


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


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pytest.raises(LabelingError, match=rf"nobody answers: .*127.0.0.1:{port}"):
        ask(ChatServer(port=port), max_retries=0)
