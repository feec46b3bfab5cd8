"""How often and after how long a failed call is sent again, and how long its attempts took.

Not here: which failures pass (failures.py), who waits (dispatch.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from labeling.engines.chat import ChatAnswer
from labeling.engines.failures import CallFailed

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
