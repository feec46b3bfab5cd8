"""What Converse is asked for which model, by AWS's own shapes, and what its answer says."""

from __future__ import annotations

import botocore.session
import pytest
from botocore.validate import ParamValidator

from labeling.engines.bedrock.converse import converse_answer, converse_arguments
from labeling.engines.chat import ChatRequest
from labeling.errors import LabelingError

SCHEMA = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["rationale", "score"],
}
MESSAGES = (
    {"role": "system", "content": "Judge."},
    {"role": "user", "content": "This."},
    {"role": "assistant", "content": "Which?"},
    {"role": "user", "content": "That."},
)
WITH_TOOLS = [
    "anthropic.claude-3-haiku-20240307-v1:0",
    "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
    "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0",
    "amazon.nova-lite-v1:0",
    "eu.amazon.nova-pro-v1:0",
]
PLAIN = [
    "meta.llama3-1-8b-instruct-v1:0",
    "us.meta.llama3-3-70b-instruct-v1:0",
    "mistral.mistral-large-2402-v1:0",
    "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3",
]


def request(**changes: object) -> ChatRequest:
    fields = {"key": "0.0.0", "messages": MESSAGES, "max_tokens": 64, "schema": SCHEMA}
    return ChatRequest(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [*WITH_TOOLS, *PLAIN])
def test_every_request_fits_the_shape_of_converse(model: str):
    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    shape = service.operation_model("Converse").input_shape
    for asked in (request(), request(schema=None, seed=7, temperature=1)):
        report = ParamValidator().validate(converse_arguments(model, asked), shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("model", WITH_TOOLS)
def test_claude_and_nova_must_answer_by_the_one_tool_that_has_the_schema(model: str):
    config = converse_arguments(model, request())["toolConfig"]
    (tool,) = config["tools"]
    assert tool["toolSpec"]["inputSchema"] == {"json": SCHEMA}
    assert config["toolChoice"] == {"tool": {"name": tool["toolSpec"]["name"]}}
    assert "toolConfig" not in converse_arguments(model, request(schema=None))


@pytest.mark.parametrize("model", PLAIN)
def test_models_that_may_not_know_tools_are_asked_in_words(model: str):
    assert "toolConfig" not in converse_arguments(model, request())


def test_the_system_stands_apart_from_the_turns():
    arguments = converse_arguments(PLAIN[0], request(temperature=0.5))
    assert arguments["system"] == [{"text": "Judge."}]
    assert arguments["messages"] == [
        {"role": role, "content": [{"text": text}]}
        for role, text in (("user", "This."), ("assistant", "Which?"), ("user", "That."))
    ]
    assert arguments["inferenceConfig"] == {"maxTokens": 64, "temperature": 0.5}
    assert "system" not in converse_arguments(PLAIN[0], request(messages=MESSAGES[1:]))


def test_a_temperature_that_bedrock_does_not_take_is_refused():
    with pytest.raises(LabelingError, match=r"temperatures up to 1, not 1\.5"):
        converse_arguments(PLAIN[0], request(temperature=1.5))


def answer(blocks: list[dict[str, object]], reason: str = "end_turn", **usage: int) -> object:
    message = {"role": "assistant", "content": blocks}
    response = {"output": {"message": message}, "stopReason": reason, "usage": usage}
    return converse_answer("k", "m", response)


def test_a_tools_input_is_the_answer_and_other_blocks_than_text_are_none():
    use = {"toolUse": {"toolUseId": "t", "name": "verdict", "input": {"score": 7, "why": "é"}}}
    thought = {"reasoningContent": {"reasoningText": {"text": "score 1"}}}
    assert answer([thought, {"text": "Sure."}, use], "tool_use").text == '{"score": 7, "why": "é"}'
    assert answer([thought, {"text": "a"}, {"text": "b"}]).text == "ab"
    assert answer([thought]).status == "empty"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("end_turn", "ok"),
        ("stop_sequence", "ok"),
        ("tool_use", "ok"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("guardrail_intervened", "filtered"),
        ("content_filtered", "filtered"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
        ("something new", "error"),
    ],
)
def test_a_stop_reason_is_a_status(reason: str, status: str):
    found = answer([{"text": '{"score": 7}'}], reason)
    assert (found.status, found.stop_reason) == (status, reason)


def test_tokens_from_a_cache_count_as_input_and_unknown_ones_are_unknown():
    found = answer([{"text": "a"}], inputTokens=10, outputTokens=2, cacheReadInputTokens=90,
                   cacheWriteInputTokens=5)  # fmt: skip
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == (105, 90, 2)
    found = answer([{"text": "a"}])
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == (None,) * 3
