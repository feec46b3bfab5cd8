"""Judges that write: what an engine offers that takes messages and gives back text.

Remote endpoints (OpenAI-compatible, Bedrock) and anything else that cannot be asked for token
probabilities over a whole vocabulary. Not here: what is asked and how an answer is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from warehouse.errors import RoundhouseError


@dataclass(frozen=True)
class ChatRequest:
    """One call. `key` is the caller's, unique in its batch, and comes back with the answer.

    `messages` have role (system, user, assistant) and content; `schema` asks for JSON that fits
    it; `top_logprobs` asks for that many alternatives of the first token, where offered.
    `occasion` is not sent: a kept answer is reused for the same occasion only.
    """

    key: str
    messages: tuple[Mapping[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    top_logprobs: int | None = None
    occasion: str | None = None


@dataclass(frozen=True)
class ChatAnswer:
    """What came back of one call, after its retries.

    `status`: ok (there is text, whatever it says), empty, truncated (cut off by max_tokens; the
    text is what there is), filtered, timeout, throttled, too_long, error. Only `ok` has a score.
    `service_tier`: what was paid for, where the endpoint has several and says which (batch).
    Token counts are the endpoint's; None where it said nothing. `first_token_logprobs`: token text
    -> log-probability in nats, None where not offered. `is_cached`: paid for by an earlier call
    (engines/remote/answer_cache.py), whose usage, model and request id these are. Seconds are wall
    time: `seconds` of the last attempt, `queued_seconds` all waiting before it (slots, budget,
    backoff).
    """

    key: str
    status: str
    text: str | None = None
    stop_reason: str | None = None
    first_token_logprobs: Mapping[str, float] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cost_usd: float | None = None
    price_table_version: str | None = None
    model: str | None = None
    request_id: str | None = None
    is_cached: bool = False
    error_type: str | None = None
    error_message: str | None = None
    retries: int = 0
    seconds: float = 0.0
    queued_seconds: float = 0.0
    service_tier: str | None = None


@dataclass(frozen=True)
class PaidWork:
    """Where all workers of a run on this machine keep what they paid for and how much it was.

    Both are SQLite files, made on first use: `answers` to ask nobody twice, `spending` to stay
    within `budget_usd` together (None: no limit but the engine's own).
    """

    answers: Path | None = None
    spending: Path | None = None
    budget_usd: float | None = None


class BudgetSpent(RoundhouseError, RuntimeError):
    """The next call would exceed the budget: nothing of it was sent; what was paid for is kept."""


class ChatEngine(Protocol):
    """Sends requests. `name`, `version` and `model` go into every label row."""

    name: str
    version: str
    model: str

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """One answer per request, in their order; a failed call is an answer with its status.

        `done` gets every answer as it arrives. Raises BudgetSpent once everything in flight has
        arrived, and LabelingError where the endpoint refuses everybody (credentials, model name).
        """
        ...

    def close(self) -> None:
        """Closes connections."""
        ...
