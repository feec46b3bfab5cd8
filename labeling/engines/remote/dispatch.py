"""Sends many calls at once under shared limits, retries each by itself, keeps their order.

Per call, in this order: a slot, the budget, the rate of tokens, the wire. A call in backoff holds
none of them. A fixed crew of tasks, a few per slot, draws from the requests, so memory does not
grow with their number; when the whole crew is in backoff the endpoint gets its rest. Limits are
those of one process, or of all that share an account's file (shared_limits.py). Not here: what a
call looks like (openai_chat.py, engines/bedrock/converse.py), which errors mean what (failures.py),
when a call is sent again (failures.py), arithmetic of money and rates (engines/prices.py), a cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import cast

from labeling.engines.chat import BudgetSpent, ChatAnswer, ChatRequest
from labeling.engines.prices import Budget, Price, TokenRate, likely_tokens
from labeling.engines.remote.failures import CallFailed, Times, retrying
from labeling.engines.remote.shared_limits import (
    LEASE_SECONDS,
    Limits,
    SharedBudget,
    budget_and_rate,
)
from labeling.errors import LabelingError
from warehouse.errors import RoundhouseError

_CREW_PER_SLOT = 4
_LOOK_AGAIN = 0.05  # seconds: nobody tells when another worker gives a slot or money back

Call = Callable[[ChatRequest], Awaitable[ChatAnswer]]
Done = Callable[[ChatAnswer], None]


class Dispatcher:
    """Keeps the budget and the rate of one engine over all its batches."""

    def __init__(self, limits: Limits, price: Price | None) -> None:
        """Raises ValueError for a budget without a price."""
        self._limits = limits
        # An engine that also sends by other ways than this one draws on the budget too.
        self.budget, self._rate = budget_and_rate(limits, price)
        self._turn = threading.Lock()

    def complete(
        self,
        requests: Sequence[ChatRequest],
        session: Callable[[], AbstractAsyncContextManager[Call]],
        done: Done | None = None,
    ) -> list[ChatAnswer]:
        """See ChatEngine.complete; works from any thread that runs no event loop.

        `session` opens what calls need (connections belong to one event loop, threads to one
        batch). A `call` raises CallFailed, or LabelingError where no call can succeed. Batches from
        several threads take turns, so that the limits hold for all of them.
        """
        with self._turn:
            return asyncio.run(self._complete(requests, session, done))

    def close(self) -> None:
        """Leaves what is shared with other processes."""
        if isinstance(self.budget, SharedBudget):
            self.budget.close()

    async def _complete(
        self,
        requests: Sequence[ChatRequest],
        session: Callable[[], AbstractAsyncContextManager[Call]],
        done: Done | None,
    ) -> list[ChatAnswer]:
        async with session() as call:
            batch = _Batch(self._limits, self.budget, self._rate, call, done)
            return await batch.complete(requests)


class _Stopped(RoundhouseError):
    """The batch ends before this request was sent (again)."""


class _Batch:
    """One call of complete()."""

    def __init__(
        self, limits: Limits, budget: Budget, rate: TokenRate, call: Call, done: Done | None
    ) -> None:
        self._limits, self._budget, self._rate = limits, budget, rate
        self._call, self._done = call, done
        self._slots = asyncio.Semaphore(limits.max_in_flight)
        self._next = asyncio.Lock()  # one looks for a place in the budget, the others queue
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self._why: Exception | None = None
        self._has_reached = False

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        answers: list[ChatAnswer | None] = [None] * len(requests)
        waiting = iter(enumerate(requests))

        async def work() -> None:
            for place, request in waiting:
                answer = None if self._stop.is_set() else await self._answer(request)
                if answer is None:
                    return
                answers[place] = answer
                if self._done is not None:
                    self._done(answer)

        crew = min(len(requests), _CREW_PER_SLOT * self._limits.max_in_flight)
        tasks = [asyncio.create_task(work()) for _ in range(crew)]
        alive = asyncio.create_task(self._stay_alive())
        try:
            await asyncio.gather(*tasks)
        finally:  # where `done` raised, the others must not use a closed session
            for task in (*tasks, alive):
                task.cancel()
            await asyncio.gather(*tasks, alive, return_exceptions=True)
        if self._why is not None:
            raise self._why
        return cast("list[ChatAnswer]", answers)

    async def _answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The answer after its retries; None where the batch was stopped before."""
        times = Times()
        sent = retrying(self._limits.max_retries, self._pause)
        try:
            answer: ChatAnswer = await sent(self._attempt, request, times)
        except CallFailed as failed:
            if failed.is_unreachable and not self._has_reached:
                self._end(LabelingError(f"nobody answers: {failed.message}"))
                return None
            answer = ChatAnswer(
                request.key,
                failed.status,
                error_type=failed.error_type,
                error_message=failed.message,
                request_id=failed.request_id,
            )
        except _Stopped:
            return None
        except (BudgetSpent, LabelingError) as why:
            self._end(why)
            return None
        return times.put_on(answer)

    async def _attempt(self, request: ChatRequest, times: Times) -> ChatAnswer:
        async with self._slots:
            promised = await self._promise(request)
            paid, tokens = 0.0, likely_tokens(request)
            try:
                await self._pause(self._rate.wait(tokens, time.monotonic()))
                paid = promised  # from here on it may be billed, also if it is given up
                started = time.monotonic()
                try:
                    answer = await self._call(request)
                finally:
                    times.attempts.append((started, time.monotonic() - started))
                self._has_reached = True
                answer, paid = self._priced(answer, promised)
            except CallFailed as failed:
                self._has_reached |= not failed.is_unreachable
                paid = promised if failed.may_be_billed else 0.0
                raise
            except LabelingError:
                paid = 0.0
                raise
            finally:
                self._budget.settle(promised, paid)
                self._settled.set()
            if answer.input_tokens is not None and answer.output_tokens is not None:
                self._rate.correct(tokens, answer.input_tokens + answer.output_tokens)
            return answer

    def _priced(self, answer: ChatAnswer, promised: float) -> tuple[ChatAnswer, float]:
        """The answer with its cost, and what the budget takes for it: the worst where unknown."""
        cost = self._budget.cost(answer.input_tokens, answer.output_tokens)
        priced = replace(answer, cost_usd=cost, price_table_version=self._budget.version)
        return priced, promised if cost is None else cost

    async def _promise(self, request: ChatRequest) -> float:
        """Waits until the budget surely holds this call. Raises BudgetSpent, _Stopped."""
        look_again = _LOOK_AGAIN if self._limits.account else None
        async with self._next:
            while not self._stop.is_set():
                self._settled.clear()
                promised = self._budget.promise(request)
                if promised is not None:
                    return promised
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), look_again)
        raise _Stopped

    async def _stay_alive(self) -> None:
        """Until cancelled: a call may take longer than the lease of a dead worker's slots."""
        while isinstance(self._budget, SharedBudget):
            self._budget.renew()
            await asyncio.sleep(LEASE_SECONDS / 3)

    async def _pause(self, seconds: float) -> None:
        """Sleeps, but not past the end of the batch. Raises _Stopped."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stop.wait(), seconds)
            except TimeoutError:
                return
        if self._stop.is_set():
            raise _Stopped

    def _end(self, why: Exception) -> None:
        """No further call is sent; those in flight arrive. The first reason is the one told."""
        self._why = self._why or why
        self._stop.set()
        self._settled.set()
