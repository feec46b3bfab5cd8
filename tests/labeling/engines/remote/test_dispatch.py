"""Many calls at once: order, retries, slots, budget, rate; the endpoint is a coroutine."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from labeling.engines.chat import BudgetSpent, ChatAnswer, ChatRequest
from labeling.engines.prices import Price
from labeling.engines.remote.dispatch import Dispatcher
from labeling.engines.remote.failures import CallFailed
from labeling.engines.remote.shared_limits import Limits
from labeling.errors import LabelingError

FREE = Limits(max_in_flight=4, tokens_per_minute=None, budget_usd=None, max_retries=6)
PRICE = Price(1.0, 2.0, "t")


def requests(count: int, text: str = "Hi") -> list[ChatRequest]:
    return [ChatRequest(f"k{n}", ({"role": "user", "content": text},), 8) for n in range(count)]


def limits(**changes: object) -> Limits:
    return Limits(**{**FREE.__dict__, **changes})  # type: ignore[arg-type]


def answer(request: ChatRequest, **fields: object) -> ChatAnswer:
    return ChatAnswer(request.key, "ok", text=request.key, **fields)  # type: ignore[arg-type]


class Endpoint:
    """Calls `reply` with the request and its attempt from 0; knows who was there at once."""

    def __init__(self, reply: Callable[[ChatRequest, int], Awaitable[ChatAnswer]]) -> None:
        self._reply = reply
        self.calls: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.is_open = False
        self.calls_when_closed = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Callable[[ChatRequest], Awaitable[ChatAnswer]]]:
        self.is_open = True
        try:
            yield self._call
        finally:
            self.is_open = False

    async def _call(self, request: ChatRequest) -> ChatAnswer:
        self.calls_when_closed += not self.is_open
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.calls[request.key] += 1
        try:
            return await self._reply(request, self.calls[request.key] - 1)
        finally:
            self.calls_when_closed += not self.is_open
            self.in_flight -= 1


async def at_once(request: ChatRequest, attempt: int) -> ChatAnswer:
    await asyncio.sleep(0)
    return answer(request)


def failing(
    *failures: CallFailed | None, seconds: float = 0.0
) -> Callable[[ChatRequest, int], Awaitable[ChatAnswer]]:
    """Every request meets these failures in turn, then an answer."""

    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        await asyncio.sleep(seconds)
        failure = failures[attempt] if attempt < len(failures) else None
        if failure is not None:
            raise failure
        return answer(request)

    return reply


def throttled(**about: object) -> CallFailed:
    return CallFailed("throttled", "rate", "slow down", **about)  # type: ignore[arg-type]


# ----- order and completeness


def test_every_request_has_one_answer_in_its_place_whatever_the_order_of_arrival():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        await asyncio.sleep(0.002 * (7 - int(request.key[1:]) % 7))
        return answer(request)

    endpoint, arrived = Endpoint(reply), []
    asked = requests(50)
    answers = Dispatcher(FREE, None).complete(asked, endpoint.session, arrived.append)
    assert [a.key for a in answers] == [r.key for r in asked]
    assert sorted(a.key for a in arrived) == sorted(r.key for r in asked)
    assert [a.key for a in arrived] != [r.key for r in asked]
    assert set(endpoint.calls.values()) == {1}


def test_no_requests_are_no_answers():
    assert Dispatcher(FREE, None).complete([], Endpoint(at_once).session) == []


def test_two_equal_keys_are_two_calls_with_an_answer_each():
    endpoint = Endpoint(at_once)
    answers = Dispatcher(FREE, None).complete(requests(1) * 2, endpoint.session)
    assert [a.key for a in answers] == ["k0", "k0"]
    assert endpoint.calls["k0"] == 2


def test_what_the_callback_raises_ends_the_batch_before_its_connections_close():
    async def slow(request: ChatRequest, attempt: int) -> ChatAnswer:
        await asyncio.sleep(0.001 if request.key == "k0" else 5)
        return answer(request)

    endpoint = Endpoint(slow)

    def done(arrived: ChatAnswer) -> None:
        raise KeyError(arrived.key)

    started = time.monotonic()
    with pytest.raises(KeyError):
        Dispatcher(FREE, None).complete(requests(9), endpoint.session, done)
    assert time.monotonic() - started < 2
    assert (endpoint.in_flight, endpoint.calls_when_closed) == (0, 0)


# ----- slots


def test_no_more_calls_than_slots_are_in_flight_and_all_slots_are_used():
    endpoint = Endpoint(failing(throttled(), seconds=0.01))
    Dispatcher(limits(max_in_flight=3), None).complete(requests(30), endpoint.session)
    assert endpoint.most_in_flight == 3


def test_batches_of_several_threads_stay_within_the_slots_together():
    endpoint, dispatcher = Endpoint(failing(seconds=0.005)), Dispatcher(FREE, None)
    made: list[list[ChatAnswer]] = []

    def work() -> None:
        made.append(dispatcher.complete(requests(12), endpoint.session))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [len(answers) for answers in made] == [12, 12, 12]
    assert endpoint.most_in_flight <= FREE.max_in_flight


def test_a_call_in_backoff_holds_no_slot():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        if request.key == "k0" and attempt == 0:
            raise throttled(retry_after=0.5)
        return answer(request)

    order: list[str] = []
    Dispatcher(limits(max_in_flight=1), None).complete(
        requests(20), Endpoint(reply).session, lambda a: order.append(a.key)
    )
    assert order == [f"k{n}" for n in range(1, 20)] + ["k0"]


# ----- retries


def test_a_failure_that_passes_is_retried_and_counted():
    endpoint = Endpoint(failing(throttled(), throttled(), seconds=0.01))
    (got,) = Dispatcher(FREE, None).complete(requests(1), endpoint.session)
    assert (got.status, got.retries, endpoint.calls["k0"]) == ("ok", 2, 3)
    assert 0.005 < got.seconds < 0.2  # the last attempt alone
    assert got.queued_seconds < 5


def test_a_failure_that_stays_is_an_answer_with_its_status_after_all_retries():
    failure = throttled(request_id="q7")
    endpoint = Endpoint(failing(*[failure] * 9))
    (got,) = Dispatcher(limits(max_retries=2), None).complete(requests(1), endpoint.session)
    assert (got.status, got.error_type, got.error_message) == ("throttled", "rate", "slow down")
    assert (got.retries, got.request_id, got.text) == (2, "q7", None)
    assert endpoint.calls["k0"] == 3


def test_a_failure_that_no_retry_mends_is_not_retried_and_costs_no_neighbour():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        if request.key == "k1":
            raise CallFailed("error", "bad", "too long", is_retryable=False)
        return answer(request)

    endpoint = Endpoint(reply)
    answers = Dispatcher(FREE, None).complete(requests(3), endpoint.session)
    assert [a.status for a in answers] == ["ok", "error", "ok"]
    assert endpoint.calls["k1"] == 1


def test_calls_refused_together_come_back_apart_and_not_before_they_are_asked_to():
    asked_at, back_at = {}, {}

    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        (back_at if attempt else asked_at)[request.key] = time.monotonic()
        if attempt == 0:
            raise throttled(retry_after=0.3)
        return answer(request)

    Dispatcher(limits(max_in_flight=16), None).complete(requests(16), Endpoint(reply).session)
    waits = sorted(back_at[key] - asked_at[key] for key in asked_at)
    assert waits[0] >= 0.3
    assert waits[-1] < 1.2
    assert waits[-1] - waits[0] > 0.1  # 16 uniform draws from half a second


def test_an_endpoint_where_nobody_ever_answers_ends_the_run():
    away = CallFailed("error", "ConnectError", "no connection to there:80", is_unreachable=True)
    endpoint = Endpoint(failing(*[away] * 9))
    with pytest.raises(LabelingError, match="nobody answers: no connection to there:80"):
        Dispatcher(limits(max_retries=1), None).complete(requests(5), endpoint.session)


def test_an_endpoint_that_goes_away_later_costs_rows_and_not_the_run():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        if request.key != "k0":
            await asyncio.sleep(0.01)
            raise CallFailed("error", "ConnectError", "gone", is_unreachable=True)
        return answer(request)

    answers = Dispatcher(limits(max_retries=1), None).complete(requests(4), Endpoint(reply).session)
    assert [a.status for a in answers] == ["ok", "error", "error", "error"]


def test_a_refusal_of_everybody_ends_the_run_once_what_is_in_flight_has_arrived():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        if request.key == "k1":
            raise LabelingError("there:80 refuses every call")
        await asyncio.sleep(0.05)
        return answer(request)

    endpoint, arrived = Endpoint(reply), []
    with pytest.raises(LabelingError, match="refuses every call"):
        Dispatcher(FREE, None).complete(requests(40), endpoint.session, arrived.append)
    assert len(arrived) == endpoint.calls.total() - 1 <= FREE.max_in_flight


# ----- money


def billed(request: ChatRequest, attempt: int) -> Awaitable[ChatAnswer]:
    async def reply() -> ChatAnswer:
        await asyncio.sleep(0.002)
        return answer(request, input_tokens=20, output_tokens=8)

    return reply()


def test_an_answer_has_its_cost_and_the_table_it_is_from():
    dispatcher = Dispatcher(FREE, PRICE)
    (got,) = dispatcher.complete(requests(1), Endpoint(billed).session)
    assert got.cost_usd == pytest.approx((20 * 1 + 8 * 2) / 1e6)
    assert got.price_table_version == "t"
    assert dispatcher.budget.spent == got.cost_usd


def test_without_a_price_or_without_tokens_the_cost_is_unknown_and_not_zero():
    (free,) = Dispatcher(FREE, None).complete(requests(1), Endpoint(billed).session)
    assert (free.cost_usd, free.price_table_version) == (None, None)
    dispatcher = Dispatcher(FREE, PRICE)
    (silent,) = dispatcher.complete(requests(1), Endpoint(at_once).session)
    assert silent.cost_usd is None
    assert dispatcher.budget.spent == pytest.approx((34 + 2 * 8) / 1e6)  # its worst: 2 bytes + 32


def test_the_budget_is_never_passed_and_what_was_paid_for_is_handed_over():
    one = 36e-6  # billed() costs this, at its worst 50e-6
    dispatcher, arrived = Dispatcher(limits(budget_usd=10.5 * one), PRICE), []
    endpoint = Endpoint(billed)
    with pytest.raises(BudgetSpent, match=r"raise budget_usd"):
        dispatcher.complete(requests(100), endpoint.session, arrived.append)
    assert dispatcher.budget.spent <= 10.5 * one
    assert len(arrived) == endpoint.calls.total() == 10
    with pytest.raises(BudgetSpent):  # and it stays spent
        dispatcher.complete(requests(1), endpoint.session)


def test_a_call_waits_for_the_budget_that_calls_in_flight_may_give_back():
    endpoint = Endpoint(billed)
    dispatcher = Dispatcher(limits(budget_usd=60e-6 + 36e-6), PRICE)
    answers = dispatcher.complete(requests(2), endpoint.session)
    assert [a.status for a in answers] == ["ok", "ok"]
    assert endpoint.most_in_flight == 1


def test_a_call_that_may_be_billed_counts_at_its_worst_and_one_that_is_not_counts_nothing():
    late = CallFailed("timeout", "timeout", "late", may_be_billed=True)
    dispatcher = Dispatcher(limits(max_retries=1), PRICE)
    dispatcher.complete(requests(1), Endpoint(failing(late, throttled())).session)
    assert dispatcher.budget.spent == pytest.approx(50e-6)


def test_calls_given_up_by_ctrl_c_in_flight_count_at_their_worst():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        await asyncio.sleep(0.01 if request.key == "k0" else 5)
        return answer(request, input_tokens=0, output_tokens=0)

    dispatcher, endpoint = Dispatcher(FREE, PRICE), Endpoint(reply)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dispatcher.complete(
                requests(4), endpoint.session, lambda _: signal.raise_signal(signal.SIGINT)
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert dispatcher.budget.spent == pytest.approx(3 * 50e-6)
    assert (endpoint.in_flight, endpoint.calls_when_closed) == (0, 0)


# ----- the rate of tokens


def test_calls_are_spaced_by_the_tokens_they_may_take():
    # 2 bytes are a token, and 8 of output: 9 a call, 20 calls a second
    dispatcher = Dispatcher(limits(tokens_per_minute=9 * 20 * 60), None)
    started = time.monotonic()
    dispatcher.complete(requests(11), Endpoint(at_once).session)
    assert 0.45 <= time.monotonic() - started < 2


def test_a_rate_that_is_waited_for_ends_with_the_batch():
    async def reply(request: ChatRequest, attempt: int) -> ChatAnswer:
        raise LabelingError("refuses every call")

    started = time.monotonic()
    with pytest.raises(LabelingError):
        Dispatcher(limits(tokens_per_minute=1), None).complete(requests(4), Endpoint(reply).session)
    assert time.monotonic() - started < 5


# ----- memory


def test_memory_does_not_grow_with_requests_that_wait():
    asked = requests(16_000)
    tracemalloc.start()
    answers = Dispatcher(FREE, None).complete(asked, Endpoint(at_once).session)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(answers) == len(asked)
    assert peak - kept < 32 * len(asked)  # bytes; a task alone would take hundreds
