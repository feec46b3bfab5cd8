"""Judges on Amazon Bedrock (Converse): Claude, Nova, Llama and others by model id.

boto3 is synchronous, so every slot is a thread. Converse shows no likelihoods and takes no seed.
JSON: Claude and Nova are made to call one tool whose input has the schema; the others, of which
not all can be forced to, have the prompt's own words. Not here: batch inference over S3, retries
(botocore's are off: engines/remote/dispatch.py), the reading of a verdict.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from labeling.engines.bedrock.aws import aws_client
from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.config import BedrockEngineConfig
from labeling.engines.prices import Price
from labeling.engines.remote.dispatch import Call, Dispatcher
from labeling.engines.remote.failures import (
    REFUSES_EVERYBODY,
    CallFailed,
    http_failure,
    lost,
    malformed,
)
from labeling.engines.remote.shared_limits import Limits
from labeling.errors import LabelingError, Misconfigured

_STATUSES = {
    "end_turn": "ok",
    "stop_sequence": "ok",
    "tool_use": "ok",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "guardrail_intervened": "filtered",
    "content_filtered": "filtered",
}
_TOOL = "verdict"
# Also with a region's prefix (us.anthropic...) and inside an ARN.
_CALLS_TOOLS = re.compile(r"(^|[./])(anthropic\.claude|amazon\.nova)")
# A ValidationException (400) is about one request, but for these.
_WRONG_MODEL = re.compile(r"model (identifier|id)|on-demand throughput", re.IGNORECASE)


class BedrockChatEngine:
    """See labeling.engines.chat.ChatEngine."""

    name = "bedrock"

    def __init__(self, config: BedrockEngineConfig, limits: Limits, price: Price | None) -> None:
        """Raises Misconfigured for an unknown profile."""
        self.model, self.version = config.model, metadata.version("boto3")
        self._config = config
        self._client = aws_client(
            config, "bedrock-runtime", retries=0, endpoint_url=config.endpoint_url
        )
        self._dispatcher = Dispatcher(limits, price)
        self.budget = self._dispatcher.budget  # for whoever spends from it too

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """See ChatEngine.complete."""
        return self._dispatcher.complete(requests, self._open, done)

    def close(self) -> None:
        """Closes the connections; leaves the shared limits."""
        self._client.close()
        self._dispatcher.close()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Call]:
        with ThreadPoolExecutor(self._config.max_in_flight, "bedrock") as threads:

            async def call(request: ChatRequest) -> ChatAnswer:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, self._call, request)

            yield call

    def _call(self, request: ChatRequest) -> ChatAnswer:
        from botocore import exceptions, parsers

        try:
            response = self._client.converse(**converse_arguments(self.model, request))
        except exceptions.ClientError as error:
            raise self._refusal(error.response) from error
        except exceptions.ReadTimeoutError as error:
            message = f"no answer in {self._config.timeout_seconds:g} s"
            raise CallFailed("timeout", "ReadTimeoutError", message, may_be_billed=True) from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            is_away = isinstance(
                error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError
            )
            raise lost(type(error).__name__, str(error), is_away=is_away) from error
        except parsers.ResponseParserError as error:
            raise malformed("the body is no Converse answer") from error
        except exceptions.ParamValidationError as error:
            name = type(error).__name__
            raise CallFailed("error", name, str(error), is_retryable=False) from error
        except exceptions.BotoCoreError as error:  # what is left is about credentials and region
            raise LabelingError(f"{self._where()}: {error}") from error
        return converse_answer(request.key, self.model, response)

    def _refusal(self, response: Any) -> Exception:
        """A LabelingError where every call would meet the same, else the failure of this one."""
        about, message = response.get("ResponseMetadata", {}), response["Error"].get("Message", "")
        code, status = response["Error"].get("Code", "unknown"), about.get("HTTPStatusCode", 500)
        if status in REFUSES_EVERYBODY:
            what = "the AWS credentials and bedrock:InvokeModel"
            what = "engine.model and its access" if status == 404 else what
            return LabelingError(f"{self._where()} refuses every call ({code}): check {what}")
        if code == "ValidationException" and _WRONG_MODEL.search(message):
            return LabelingError(f"{self._where()} refuses every call: {message}; check the model")
        return http_failure(
            status,
            code,
            message,
            retry_after=about.get("HTTPHeaders", {}).get("retry-after"),
            request_id=about.get("RequestId"),
        )

    def _where(self) -> str:
        profile = self._config.profile or "default"
        return f"Bedrock in {self._config.region}, profile {profile}, model {self.model}"


def converse_arguments(model: str, request: ChatRequest) -> dict[str, Any]:
    """Of Converse, which has the system's messages apart. Raises Misconfigured."""
    if request.temperature > 1:
        raise Misconfigured(f"Bedrock takes temperatures up to 1, not {request.temperature:g}")
    system = [{"text": m["content"]} for m in request.messages if m["role"] == "system"]
    arguments: dict[str, Any] = {
        "modelId": model,
        "messages": [
            {"role": m["role"], "content": [{"text": m["content"]}]}
            for m in request.messages
            if m["role"] != "system"
        ],
        "inferenceConfig": {
            "maxTokens": request.max_tokens,
            "temperature": float(request.temperature),
        },
    }
    if system:
        arguments["system"] = system
    if request.schema is not None and _CALLS_TOOLS.search(model):
        tool = {"name": _TOOL, "inputSchema": {"json": dict(request.schema)}}
        arguments["toolConfig"] = {
            "tools": [{"toolSpec": tool}],
            "toolChoice": {"tool": {"name": _TOOL}},
        }
    return arguments


def converse_answer(key: str, model: str, response: dict[str, Any]) -> ChatAnswer:
    """`input_tokens` counts what came from a cache too, as other endpoints do."""
    blocks = response.get("output", {}).get("message", {}).get("content", [])
    reason, usage = response.get("stopReason"), response.get("usage", {})
    if reason is None:
        raise malformed("the body has no stopReason")
    inputs = [block["toolUse"]["input"] for block in blocks if "toolUse" in block]
    text = "".join(block["text"] for block in blocks if "text" in block)
    if inputs:
        text = json.dumps(inputs[0], ensure_ascii=False)
    status = _STATUSES.get(reason, "error")
    cached = usage.get("cacheReadInputTokens")
    inputs_seen = usage.get("inputTokens", 0) + (cached or 0)
    inputs_seen += usage.get("cacheWriteInputTokens", 0)
    return ChatAnswer(
        key,
        "empty" if status == "ok" and not text.strip() else status,
        text=text or None,
        stop_reason=reason,
        input_tokens=inputs_seen or None,  # there is no empty prompt: not counted
        output_tokens=usage.get("outputTokens") if inputs_seen else None,
        cached_input_tokens=cached,
        model=model,
        request_id=response.get("ResponseMetadata", {}).get("RequestId"),
        error_type="stop_reason" if status == "error" else None,
        error_message=f"stopped by {reason}" if status == "error" else None,
    )
