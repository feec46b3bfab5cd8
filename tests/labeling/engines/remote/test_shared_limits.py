"""Limits that workers keep together: real processes, a real endpoint over HTTP, one file."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from labeling.engines.chat import BudgetSpent, ChatRequest, PaidWork
from labeling.engines.config import OpenAIEngineConfig
from labeling.engines.load import load_chat_engine
from labeling.engines.prices import Price
from labeling.engines.remote.shared_limits import Account, AccountFile, SharedBudget, SharedRate
from labeling.errors import LabelingError
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, Plan, serving

PRICE = {"input": 100.0, "output": 1000.0}
COST = Price(100.0, 1000.0, "").cost(INPUT_TOKENS, OUTPUT_TOKENS)  # USD of one answer: 0.02
WORST = Price(100.0, 1000.0, "").cost(2 + 32, 16)  # USD promised for one of `requests`: 0.0194


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer(Plan(delay=0.05))) as running:
        yield running


def settings(server: ChatServer, **changes: object) -> dict[str, object]:
    about = {"kind": "openai", "base_url": server.base_url, "model": "m", "price": PRICE}
    return {**about, "max_in_flight": 3, **changes}


def requests(count: int, text: str = "hi") -> list[ChatRequest]:
    return [ChatRequest(f"{n}", ({"role": "user", "content": text},), 16) for n in range(count)]


def work(config: dict[str, object], paid: PaidWork, count: int, told: Path) -> None:
    """A worker: what arrived stands in `told`, a line each, then what ended it."""
    engine = load_chat_engine(OpenAIEngineConfig.model_validate(config), paid)
    with told.open("a", buffering=1) as file:
        try:
            engine.complete(requests(count), lambda a: print(a.status, a.cost_usd, file=file))
        except BudgetSpent as spent:
            print("spent", spent, file=file)


def start(
    config: dict[str, object], paid: PaidWork, count: int, folder: Path
) -> list[tuple[BaseProcess, Path]]:
    """Two workers at once."""
    spawn = multiprocessing.get_context("spawn")
    started = []
    for name in ("a", "b"):
        told = folder / name
        process = spawn.Process(target=work, args=(config, paid, count, told))
        process.start()
        started.append((process, told))
    return started


def wait_for(told: Path, lines: int = 1) -> None:
    limit = time.monotonic() + 60
    while not told.exists() or len(told.read_text().splitlines()) < lines:
        assert time.monotonic() < limit, f"{told} has no {lines} lines"
        time.sleep(0.02)


def sums(path: Path) -> tuple[float, float, int]:
    """USD spent and promised, calls in flight."""
    con = sqlite3.connect(path)
    spent = con.execute("select sum(spent_usd) from accounts").fetchone()[0]
    row = con.execute("select total(promised_usd), total(in_flight) from workers").fetchone()
    con.close()
    return spent, *row


def shared(
    path: Path, *, usd: float | None = None, run: float | None = None, slots: int = 2,
    name: str = "m", lease: float = 30.0, per_minute: int | None = None,
) -> tuple[SharedBudget, SharedRate]:  # fmt: skip
    account = Account(path, name, run)
    file = AccountFile(account, lease)
    price = Price(1e6, 1e6, "t")  # a dollar a token
    return SharedBudget(usd, price, slots, account, file), SharedRate(per_minute, account, file)


# ----- several processes at one endpoint


def test_two_processes_never_pass_the_slots_or_the_budget_and_keep_what_they_paid_for(
    server: ChatServer, tmp_path: Path
):
    paid = PaidWork(spending=tmp_path / "spending.sqlite", budget_usd=0.41)  # 20 answers
    workers = start(settings(server), paid, 40, tmp_path)
    for process, _ in workers:
        process.join(90)
        assert process.exitcode == 0
    lines = [told.read_text().splitlines() for _, told in workers]
    answers = [line for told in lines for line in told if line.startswith("ok")]
    assert len(answers) == server.calls["hi"] == 20
    assert all(told[-1].startswith("spent budget_usd: 0.41 USD are spent") for told in lines)
    assert server.most_in_flight == 3
    assert sums(paid.spending or tmp_path) == (pytest.approx(20 * COST), pytest.approx(0), 0)


def test_a_killed_worker_gives_its_slots_back_and_the_other_finishes(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "spending.sqlite"
    dead, _ = shared(path, slots=3, lease=1.0, name=account_name(server))
    for _ in range(3):  # what a worker leaves that is killed with three calls in flight
        assert dead.set_aside(WORST) == WORST
    engine = load_chat_engine(
        OpenAIEngineConfig.model_validate(settings(server)), PaidWork(spending=path)
    )
    started = time.monotonic()
    assert {a.status for a in engine.complete(requests(6))} == {"ok"}
    assert time.monotonic() - started > 0.9  # not before it was taken for dead
    engine.close()
    spent, promised, in_flight = sums(path)
    assert (spent, promised, in_flight) == (pytest.approx(6 * COST + 3 * WORST), 0, 0)


def test_a_process_that_is_killed_does_not_stop_the_other(server: ChatServer, tmp_path: Path):
    paid = PaidWork(spending=tmp_path / "spending.sqlite")
    (killed, first), (other, second) = start(settings(server), paid, 60, tmp_path)
    wait_for(first, 3)
    wait_for(second, 3)
    killed.kill()
    killed.join(30)
    other.join(90)
    assert other.exitcode == 0
    assert second.read_text().splitlines() == [f"ok {COST}"] * 60
    assert server.most_in_flight <= 3


def account_name(server: ChatServer) -> str:
    return f"openai m {server.base_url} "


# ----- one file, several workers


def test_slots_are_those_of_all_workers_and_come_back_when_calls_are_settled(tmp_path: Path):
    one, _ = shared(tmp_path / "s")
    other, _ = shared(tmp_path / "s")
    assert (one.set_aside(1), other.set_aside(1)) == (1, 1)
    assert (one.set_aside(1), other.set_aside(1)) == (None, None)
    one.settle(1, 0.5)
    assert other.set_aside(1) == 1
    assert one.spent == other.spent == 0.5


def test_another_model_has_slots_of_its_own_and_the_same_budget_of_the_run(tmp_path: Path):
    one, _ = shared(tmp_path / "s", run=10.0, slots=1)
    other, _ = shared(tmp_path / "s", run=10.0, slots=1, name="other")
    assert (one.set_aside(6), other.set_aside(6)) == (6, None)  # waits for what one gives back
    one.settle(6, 5)
    with pytest.raises(BudgetSpent, match=r"budget_usd: 10 USD are spent: 5 USD are paid"):
        other.set_aside(6)
    assert (one.spent, other.spent) == (5, 0)


def test_the_engines_own_budget_holds_beside_that_of_the_run(tmp_path: Path):
    one, _ = shared(tmp_path / "s", usd=3.0, run=100.0)
    with pytest.raises(BudgetSpent, match=r"raise engine\.budget_usd and run the same command"):
        one.set_aside(3.5)
    assert one.set_aside(3.0) == 3.0


def test_a_raised_budget_goes_on_counting_from_what_was_spent(tmp_path: Path):
    one, _ = shared(tmp_path / "s", run=5.0)
    one.set_aside(5)
    one.settle(5, 5)
    one.close()
    with pytest.raises(BudgetSpent):
        shared(tmp_path / "s", run=5.0)[0].set_aside(1)
    raised, _ = shared(tmp_path / "s", run=6.0)
    assert (raised.set_aside(1), raised.spent) == (1, 5)


def test_what_a_dead_worker_had_promised_counts_as_spent(tmp_path: Path):
    dead, _ = shared(tmp_path / "s", lease=0.2, slots=1)
    dead.set_aside(4)
    other, _ = shared(tmp_path / "s", slots=1)
    assert other.set_aside(1) is None
    time.sleep(0.25)
    assert (other.set_aside(1), other.spent) == (1, 4)
    dead.settle(4, 3)  # it only slept
    assert other.spent == 3


def test_a_worker_that_says_so_in_time_stays_alive(tmp_path: Path):
    slow, _ = shared(tmp_path / "s", lease=0.4, slots=1)
    slow.set_aside(4)
    other, _ = shared(tmp_path / "s", slots=1)
    for _ in range(4):
        time.sleep(0.15)
        slow.renew()
        assert other.set_aside(1) is None


def test_the_rate_of_tokens_is_that_of_all_workers(tmp_path: Path):
    _, one = shared(tmp_path / "s", per_minute=600)
    _, other = shared(tmp_path / "s", per_minute=600)
    assert one.wait(10, 0.0) == pytest.approx(0, abs=0.1)  # the next second is taken
    assert other.wait(10, 0.0) == pytest.approx(1, abs=0.2)
    other.correct(10, 20)
    assert one.wait(1, 0.0) == pytest.approx(3, abs=0.3)


def test_without_a_rate_nobody_waits(tmp_path: Path):
    _, rate = shared(tmp_path / "s")
    assert [rate.wait(10**9, 0.0) for _ in range(3)] == [0, 0, 0]


def test_a_budget_of_the_run_needs_the_price_of_every_model(server: ChatServer, tmp_path: Path):
    config = OpenAIEngineConfig.model_validate(settings(server, price=None))
    paid = PaidWork(spending=tmp_path / "s", budget_usd=1.0)
    with pytest.raises(LabelingError, match=r"engine\.price: m is not in the price table"):
        load_chat_engine(config, paid)
