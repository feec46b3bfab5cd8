"""Limits that several processes keep together: real processes, one file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from labeling.engine_config import OpenAIEngineConfig
from labeling.engines.chat import BudgetSpent, ChatRequest, PaidWork
from labeling.engines.chat_engines import load_chat_engine
from labeling.engines.prices import Price
from labeling.engines.shared_limits import SharedLimits
from labeling.label import LabelingError
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, Plan, serving

PRICE = Price(1.0, 2.0, "t")
TEXT = "x" * 150  # so that no call costs more than its worst case, which goes by bytes
COST = (INPUT_TOKENS * 1 + OUTPUT_TOKENS * 2) / 1e6  # of a call to the test's server
SPAWN = multiprocessing.get_context("spawn")


def shared(path: Path, account: str = "a", run_usd: float | None = None) -> SharedLimits:
    return SharedLimits(path, account, run_usd=run_usd, lease_seconds=0.5)


def work(url: str, spending: Path, name: str, settings: dict[str, object], count: int) -> None:
    """A worker process: labels its own texts; exits 7 when the budget is spent."""
    config = {
        "kind": "openai", "base_url": url, "model": "m", "price": {"input": 1, "output": 2},
        **{key: value for key, value in settings.items() if key != "run_usd"},
    }  # fmt: skip
    paid = PaidWork(spending=spending, budget_usd=settings.get("run_usd"))  # type: ignore[arg-type]
    engine = load_chat_engine(OpenAIEngineConfig.model_validate(config), paid)
    try:
        engine.complete(
            [ChatRequest(f"{n}", ({"role": "user", "content": f"{name}-{n} {TEXT}"},), 16)
             for n in range(count)]
        )  # fmt: skip
    except BudgetSpent:
        os._exit(7)
    finally:
        engine.close()


def start(
    server: ChatServer, spending: Path, settings: dict[str, object], count: int, workers: int = 2
) -> list[multiprocessing.process.BaseProcess]:
    started = [
        SPAWN.Process(target=work, args=(server.base_url, spending, f"w{n}", settings, count))
        for n in range(workers)
    ]
    for process in started:
        process.start()
    return started


def codes(processes: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


# ----- processes at a server


def test_processes_together_never_have_more_calls_in_flight_than_one_may(tmp_path: Path):
    with serving(ChatServer(Plan(delay=0.05))) as server:
        done = codes(start(server, tmp_path / "s.sqlite", {"max_in_flight": 3}, 25))
    assert done == [0, 0]
    assert server.most_in_flight == 3
    assert len(server.answered) == 50
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize("key", ["budget_usd", "run_usd"])
def test_processes_together_never_spend_more_than_the_budget(tmp_path: Path, key: str):
    usd = 30.5 * COST
    with serving(ChatServer(Plan(delay=0.01, broken=0.1))) as server:
        done = codes(start(server, tmp_path / "s.sqlite", {key: usd, "max_in_flight": 4}, 40))
    assert done == [7, 7]
    paid = server.answered.total() * COST
    assert usd - 3 * COST < paid <= usd


def test_a_killed_process_gives_back_its_slots_and_the_others_go_on(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    with serving(ChatServer(Plan(delay=0.3))) as server:
        settings = {"max_in_flight": 2, "timeout_seconds": 5}
        (victim,) = start(server, path, settings, 50, workers=1)
        while server.calls.total() < 4:
            time.sleep(0.05)
        os.kill(victim.pid or 0, signal.SIGKILL)
        assert codes([victim]) == [-signal.SIGKILL]
        # Its lease (seconds: 2 x timeout + 60) is shortened here: what the passing of time does.
        with contextlib.closing(sqlite3.connect(path)) as held:
            held.execute("UPDATE workers SET lease_ends = ?", (time.time() + 0.5,))
            held.commit()
        assert codes(start(server, path, settings, 3, workers=1)) == [0]
    assert server.answered.total() >= 3


def test_a_resumed_run_goes_on_counting_from_what_was_spent(tmp_path: Path):
    path, settings = tmp_path / "s.sqlite", {"run_usd": 10.5 * COST, "max_in_flight": 1}
    with serving(ChatServer()) as server:
        first = codes(start(server, path, settings, 9, workers=1))
        again = codes(start(server, path, settings, 9, workers=1))
        more = codes(start(server, path, settings | {"run_usd": 30 * COST}, 9, workers=1))
    assert (first, again, more) == ([0], [7], [0])
    assert server.answered.total() in (18, 19)


# ----- one process, by the clock of leases


def test_slots_of_the_dead_come_back_when_their_lease_ends(tmp_path: Path):
    dead, alive = shared(tmp_path / "s"), shared(tmp_path / "s")
    assert dead.take_slot(2)
    assert alive.take_slot(2)
    assert not alive.take_slot(2)
    time.sleep(0.3)
    alive.give_slot()
    assert alive.take_slot(2)  # renews its own lease
    time.sleep(0.3)
    assert alive.take_slot(2)
    assert not alive.take_slot(2)
    dead.give_slot()  # back from a long sleep: takes nothing from the others
    assert not alive.take_slot(2)


def test_what_the_dead_had_set_aside_counts_as_spent(tmp_path: Path):
    dead = shared(tmp_path / "s").budget(10.0, PRICE)
    alive = shared(tmp_path / "s").budget(10.0, PRICE)
    assert dead.set_aside(4.0) == 4.0
    assert alive.set_aside(5.0) == 5.0
    assert alive.set_aside(2.0) is None  # may fit once the others' is settled
    time.sleep(0.6)
    assert alive.spent == 9.0
    with pytest.raises(BudgetSpent, match=r"engine\.budget_usd: 9 of 10 USD are spent"):
        alive.set_aside(2.0)
    dead.settle(4.0, 1.0)  # not dead after all
    assert alive.spent == 6.0
    alive.settle(5.0, 0.5)
    assert alive.spent == pytest.approx(1.5)


def test_the_run_s_budget_is_over_all_accounts_and_an_engine_s_over_its_own(tmp_path: Path):
    one = shared(tmp_path / "s", "one", run_usd=10.0).budget(4.0, PRICE)
    two = shared(tmp_path / "s", "two", run_usd=10.0).budget(None, PRICE)
    assert one.set_aside(3.0) == 3.0
    one.settle(3.0, 3.0)
    with pytest.raises(BudgetSpent, match=r"^engine\.budget_usd: 3 of 4 USD"):
        one.set_aside(2.0)
    assert two.set_aside(6.0) == 6.0
    two.settle(6.0, 6.0)
    with pytest.raises(BudgetSpent, match=r"^budget_usd: 9 of 10 USD.*raise budget_usd to go on"):
        two.set_aside(2.0)
    assert (one.spent, two.spent) == (3.0, 6.0)


def test_the_rate_is_of_all_workers_together(tmp_path: Path):
    one, two = shared(tmp_path / "s").rate(600), shared(tmp_path / "s").rate(600)  # ten a second
    assert one.wait(20, 0.0) == 0.0
    assert two.wait(10, 0.0) == pytest.approx(2.0, abs=0.1)
    two.correct(10, 0)
    assert one.wait(10, 0.0) == pytest.approx(2.0, abs=0.1)
    assert shared(tmp_path / "s", "other").rate(600).wait(5, 0.0) == 0.0
    assert shared(tmp_path / "s").rate(None).wait(10**9, 0.0) == 0.0


def test_a_budget_of_a_run_needs_every_price_and_a_file(tmp_path: Path):
    config = OpenAIEngineConfig(kind="openai", base_url="http://here/v1", model="m")
    with pytest.raises(LabelingError, match=r"m is not in the price table; give engine\.price"):
        load_chat_engine(config, PaidWork(spending=tmp_path / "s", budget_usd=1.0))
    priced = config.model_copy(update={"model": "gpt-4o-mini-2024-07-18"})
    with pytest.raises(ValueError, match="file"):
        load_chat_engine(priced, PaidWork(budget_usd=1.0))


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(LabelingError, match=r"s\.sqlite: file is not a database"):
        shared(path).take_slot(1)


def test_limits_are_closed_and_opened_again(tmp_path: Path):
    limits = shared(tmp_path / "s")
    assert limits.take_slot(1)
    limits.close()
    assert not limits.take_slot(1)
