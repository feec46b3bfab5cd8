"""What went wrong with one call to an endpoint, and which HTTP statuses mean what for all of them.

An endpoint that refuses everybody is a LabelingError; any other failure is CallFailed. Not here:
who tries again (dispatch.py), the error codes of one kind of endpoint (its engine).
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from labeling.engines.chat import ChatAnswer
from warehouse.errors import RoundhouseError

# Credentials, permission, model or path: the next call would meet the same.
REFUSES_EVERYBODY = frozenset({401, 403, 404})
_TRANSIENT = frozenset({408, 409, 424, 425, 429})  # and every 5xx
_THROTTLED = 429
_TIMED_OUT = frozenset({408, 504})
_LONGEST_MESSAGE = 500


class CallFailed(RoundhouseError):
    """One attempt failed. `status` is the answer's if no retry mends it.

    `may_be_billed`: the endpoint may have worked for it (timeout, unreadable body), so the budget
    counts it at its worst. `is_unreachable`: nobody was there. `retry_after`: seconds.
    """

    def __init__(
        self,
        status: str,
        error_type: str,
        message: str,
        *,
        is_retryable: bool = True,
        retry_after: float | None = None,
        may_be_billed: bool = False,
        is_unreachable: bool = False,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.error_type = status, error_type
        self.message = message[:_LONGEST_MESSAGE]
        self.is_retryable, self.retry_after = is_retryable, retry_after
        self.may_be_billed, self.is_unreachable = may_be_billed, is_unreachable
        self.request_id = request_id


def http_failure(
    code: int, error_type: str, message: str, *, retry_after: str | None, request_id: str | None
) -> CallFailed:
    """The failure of one row that was answered with this HTTP status (none of REFUSES_EVERYBODY).

    `retry_after` is the header as it came.
    """
    timed_out = code in _TIMED_OUT
    status = "throttled" if code == _THROTTLED else "timeout" if timed_out else "error"
    return CallFailed(
        status,
        error_type,
        f"HTTP {code}: {message}",
        is_retryable=code in _TRANSIENT or code >= 500,
        retry_after=retry_after_seconds(retry_after),
        may_be_billed=timed_out,
        request_id=request_id,
    )


def malformed(message: str) -> CallFailed:
    """The body is no answer, though the endpoint has worked for it."""
    return CallFailed("error", "malformed_body", message, may_be_billed=True)


def lost(error_type: str, message: str, *, is_away: bool) -> CallFailed:
    """Nobody there (`is_away`), or one that went away while it worked on the call."""
    return CallFailed(
        "error", error_type, message, may_be_billed=not is_away, is_unreachable=is_away
    )


def retry_after_seconds(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or an HTTP date; None where unreadable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


# Full jitter: uniform between 0 and a bound that doubles, so that calls refused together do not
# come back together (Brooker, "Exponential Backoff And Jitter", AWS 2015).
_JITTER = wait_random_exponential(multiplier=0.5, max=30)
_LONGEST_RETRY_AFTER = 120.0  # who asks for an hour is not there tonight


def retrying(max_retries: int, sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
    """Of one call; raises the last failure."""
    return AsyncRetrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=_backoff,
        retry=retry_if_exception(lambda e: isinstance(e, CallFailed) and e.is_retryable),
        sleep=sleep,
        reraise=True,
    )


def _backoff(state: RetryCallState) -> float:
    """Seconds: what the endpoint asks for, and a random time on top."""
    failed = None if state.outcome is None else state.outcome.exception()
    asked = failed.retry_after if isinstance(failed, CallFailed) else None
    return min(asked or 0.0, _LONGEST_RETRY_AFTER) + _JITTER(state)


@dataclass
class Times:
    """Of one request, in seconds of the monotonic clock."""

    came_at: float = field(default_factory=time.monotonic)
    attempts: list[tuple[float, float]] = field(default_factory=list)  # start, length

    def put_on(self, answer: ChatAnswer) -> ChatAnswer:
        """The answer with its retries and its times."""
        started, seconds = self.attempts[-1]
        earlier = sum(length for _, length in self.attempts[:-1])
        return replace(
            answer,
            retries=len(self.attempts) - 1,
            seconds=seconds,
            queued_seconds=max(0.0, started - self.came_at - earlier),
        )
