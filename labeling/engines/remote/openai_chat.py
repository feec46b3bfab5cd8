"""Judges behind any OpenAI-compatible endpoint (chat completions), through the openai library.

JSON by `response_format`, likelihoods by `top_logprobs`, both only where asked for. Whether the
endpoint honours the seed or the schema shows in the answers alone. Not here: retries, budgets and
slots (dispatch.py), the reading of a verdict.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.config import OpenAIEngineConfig
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

if TYPE_CHECKING:
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

_STATUSES = {"stop": "ok", "length": "truncated", "content_filter": "filtered"}
# Error codes that the HTTP status hides: a 429 that no waiting mends, a 400 that all calls get.
_FATAL_CODES = frozenset({"insufficient_quota", "model_not_found", "invalid_api_key"})
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})


class OpenAIChatEngine:
    """See labeling.engines.chat.ChatEngine."""

    name = "openai"

    def __init__(self, config: OpenAIEngineConfig, limits: Limits, price: Price | None) -> None:
        """Raises Misconfigured where the environment variable of the key is not set."""
        self.model, self.version = config.model, metadata.version("openai")
        self._config = config
        self._place = urlsplit(config.base_url).netloc
        self._key = _api_key(config.api_key_env)
        self._dispatcher = Dispatcher(limits, price)

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """See ChatEngine.complete."""
        return self._dispatcher.complete(requests, self._open, done)

    def close(self) -> None:
        """No connection stays open between batches; leaves the shared limits."""
        self._dispatcher.close()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Call]:
        from openai import AsyncOpenAI

        # Without a key of its own the library would send OPENAI_API_KEY to whoever base_url is.
        async with AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._config.base_url,
            timeout=self._config.timeout_seconds,
            max_retries=0,
        ) as client:

            async def call(request: ChatRequest) -> ChatAnswer:
                return await self._call(client, request)

            yield call

    async def _call(self, client: AsyncOpenAI, request: ChatRequest) -> ChatAnswer:
        import openai

        try:
            # The library's own timeout is per read: a body in drops could take for ever.
            async with asyncio.timeout(self._config.timeout_seconds):
                completion = await client.chat.completions.create(**self._arguments(request))
        except (openai.APITimeoutError, TimeoutError) as error:
            message = f"no answer in {self._config.timeout_seconds:g} s"
            raise CallFailed("timeout", "timeout", message, may_be_billed=True) from error
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the cause's text may show the key
        except openai.APIConnectionError as error:
            raise self._lost_connection(error) from None
        except (openai.APIError, ValueError) as error:
            raise malformed(f"not JSON of a completion ({type(error).__name__})") from None
        return _answer(request.key, completion)

    def _lost_connection(self, error: APIConnectionError) -> CallFailed:
        name = type(error.__cause__ or error).__name__
        is_away = name == "ConnectError"  # by name: which HTTP client it has is openai's affair
        what = "no connection to" if is_away else "lost the connection to"
        return lost(name, f"{what} {self._place} ({name})", is_away=is_away)

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            "max_completion_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            arguments["seed"] = request.seed
        if request.schema is not None:
            form = {"name": "verdict", "strict": True, "schema": request.schema}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        if request.top_logprobs is not None:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return arguments

    def _refusal(self, error: APIStatusError) -> Exception:
        """A LabelingError where every call would meet the same, else the failure of this one."""
        code = error.code or ""
        if error.status_code in REFUSES_EVERYBODY or code in _FATAL_CODES:
            return LabelingError(self._refusal_of_all(error.status_code, code))
        message = error.message
        if self._key:
            message = message.replace(self._key, "***")
        if code in _FILTER_CODES:
            return CallFailed("filtered", code, message, is_retryable=False)
        return http_failure(
            error.status_code,
            code or error.type or type(error).__name__,
            message,
            retry_after=error.response.headers.get("retry-after"),
            request_id=error.request_id,
        )

    def _refusal_of_all(self, status: int, code: str) -> str:
        """What to do about it; without the endpoint's own words, which may quote the key."""
        refused = f"{self._place} refuses every call (HTTP {status}{code and ', ' + code})"
        if status in (401, 403):
            variable = self._config.api_key_env
            if variable is None:
                return f"{refused}: name the environment variable of its key as engine.api_key_env"
            return f"{refused}: check the key in the environment variable {variable}"
        if code == "insufficient_quota":
            return f"{refused}: the account has nothing left"
        return f"{refused}: check engine.model ({self.model}) and engine.base_url"


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise Misconfigured(
            f"engine.api_key_env: the environment variable {variable} is not set; put the "
            "endpoint's key there, or leave api_key_env out for an endpoint without one"
        )
    return key


def _answer(key: str, completion: ChatCompletion) -> ChatAnswer:
    """Raises CallFailed for a body that is no completion; the library does not check it."""
    from openai.types.chat import ChatCompletion

    if not isinstance(completion, ChatCompletion):
        raise malformed("the body is no JSON")
    if not completion.choices or completion.choices[0].message is None:
        raise malformed("the body has no choices")
    choice, usage = completion.choices[0], completion.usage
    if usage is not None and not usage.prompt_tokens:  # there is no empty prompt: not counted
        usage = None
    # A refusal is what the model says: whether it is one is for the reader of the verdict.
    text = choice.message.content or choice.message.refusal
    details = usage.prompt_tokens_details if usage else None
    status = _STATUSES.get(choice.finish_reason or "stop", "error")
    return ChatAnswer(
        key,
        "empty" if status == "ok" and not (text or "").strip() else status,
        text=text,
        stop_reason=choice.finish_reason,
        first_token_logprobs=_first_token(choice),
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        cached_input_tokens=details.cached_tokens if details else None,
        model=completion.model,
        request_id=completion._request_id or completion.id,
        error_type="stop_reason" if status == "error" else None,
        error_message=f"stopped by {choice.finish_reason}" if status == "error" else None,
    )


def _first_token(choice: Choice) -> dict[str, float] | None:
    """The alternatives of the first token, the written one included."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    first = choice.logprobs.content[0]
    return {first.token: first.logprob} | {top.token: top.logprob for top in first.top_logprobs}
