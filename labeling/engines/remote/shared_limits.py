"""Limits that all workers of a run on one machine keep together: slots, tokens a minute, USD.

One SQLite file holds what each worker has in flight and promised and what each engine has spent;
every change is one transaction. A worker that is killed stops renewing its row: its slots come back
and what it had promised counts as spent, since the endpoint may bill it. Engines that ask the same
model at the same place have one account. Not here: workers on several machines, who waits
(dispatch.py), which calls may be billed (failures.py).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from labeling.engines.chat import BudgetSpent
from labeling.engines.prices import Budget, Price, TokenRate

LEASE_SECONDS = 30.0  # a worker that has not renewed for so long is dead
_BUSY_SECONDS = 60.0
_TABLES = """
create table if not exists accounts (
    account text primary key, spent_usd real not null default 0, free_at real not null default 0
) without rowid;
create table if not exists workers (
    worker text, account text, in_flight integer not null default 0,
    promised_usd real not null default 0, alive_until real not null,
    primary key (worker, account)
) without rowid;
"""


@dataclass(frozen=True)
class Account:
    """Where an engine's limits are kept, under which name, and USD for all accounts together."""

    path: Path
    name: str
    budget_usd: float | None = None


@dataclass(frozen=True)
class Limits:
    """What all calls of an engine share. Slots and retries are counts; None: no limit.

    `account`: shared with other processes; None: with none.
    """

    max_in_flight: int
    tokens_per_minute: int | None
    budget_usd: float | None
    max_retries: int
    account: Account | None = None


class AccountFile:
    """One worker's access to one account; any thread may use it, one at a time."""

    def __init__(self, account: Account, lease_seconds: float = LEASE_SECONDS) -> None:
        account.path.parent.mkdir(parents=True, exist_ok=True)
        self._name, self._lease = account.name, lease_seconds
        self._worker = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._turn = threading.Lock()
        self._con = sqlite3.connect(
            account.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        # SQLite does not wait for who else is making the file.
        with FileLock(account.path.with_name(f"{account.path.name}.lock")):
            self._con.execute("pragma journal_mode=wal")
            self._con.execute("pragma synchronous=normal")  # a kill loses nothing, a power cut may
            self._con.executescript(_TABLES)
        with self.change() as con:
            con.execute("insert or ignore into accounts (account) values (?)", [self._name])

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other worker's meets; dead workers are settled, we are alive."""
        con = self._con
        with self._turn:
            con.execute("begin immediate")
            try:
                self._renew(con, time.time())
                yield con
            except BaseException:
                con.execute("rollback")
                raise
            con.execute("commit")

    def _renew(self, con: sqlite3.Connection, now: float) -> None:
        con.execute(
            "insert into workers (worker, account, alive_until) values (?, ?, ?) "
            "on conflict do update set alive_until = excluded.alive_until",
            [self._worker, self._name, now + self._lease],
        )
        for worker, account, promised in con.execute(
            "select worker, account, promised_usd from workers where alive_until < ?", [now]
        ).fetchall():
            add_spent(con, account, promised)
            con.execute("delete from workers where worker = ? and account = ?", [worker, account])

    def add(self, con: sqlite3.Connection, in_flight: int, promised: float) -> None:
        """Adds to what this worker has in flight and promised.

        A worker that was taken for dead while it slept gives back more than it has: the promises
        have been counted as spent, so they go back to there.
        """
        me = [self._worker, self._name]
        query = "select in_flight, promised_usd from workers where worker = ? and account = ?"
        before = con.execute(query, me).fetchone()
        calls, usd = before[0] + in_flight, before[1] + promised
        con.execute(
            "update workers set in_flight = ?, promised_usd = ? where worker = ? and account = ?",
            [max(0, calls), max(0.0, usd), *me],
        )
        add_spent(con, self._name, min(0.0, usd))

    def close(self) -> None:
        """Leaves the account, at once what a killed worker does after its lease."""
        with self.change() as con:
            con.execute("update workers set alive_until = 0 where worker = ?", [self._worker])
        self._con.close()


def add_spent(con: sqlite3.Connection, account: str, usd: float) -> None:
    """Within a transaction."""
    con.execute("update accounts set spent_usd = spent_usd + ? where account = ?", [usd, account])


class SharedBudget(Budget):
    """A Budget whose sums and slots are the account's. `promise` takes a slot, `settle` frees it.

    Two limits hold: the engine's own, over its account, and the run's, over all accounts.
    """

    def __init__(
        self,
        usd: float | None,
        price: Price | None,
        slots: int,
        account: Account,
        file: AccountFile,
    ) -> None:
        """Raises ValueError for a budget without a price."""
        if account.budget_usd is not None and price is None:
            raise ValueError("a budget needs the price of the model")
        super().__init__(usd, price)
        self._slots, self._account, self._file = slots, account, file

    @property
    def spent(self) -> float:
        """USD, of all workers and rounds of the file for this account."""
        with self._file.change() as con:
            return _sums(con, self._account.name)[0]

    def set_aside(self, worst: float) -> float | None:
        """See Budget.set_aside; also None where all slots are taken."""
        name = self._account.name
        limits: tuple[tuple[float | None, list[str], str], ...] = (
            (self._usd, [name], "engine.budget_usd"),
            (self._account.budget_usd, [], "budget_usd"),
        )
        with self._file.change() as con:
            must_wait = _in_flight(con, name) >= self._slots
            for usd, which, key in limits:
                if usd is None:
                    continue
                spent, promised = _sums(con, *which)
                if spent + worst > usd:
                    raise BudgetSpent(
                        f"{key}: {usd:g} USD are spent: {spent:.6g} USD are paid and the next call "
                        f"may cost {worst:.6g}; answers that were paid for are kept, raise {key} "
                        "and run the same command to go on from here"
                    )
                must_wait |= spent + promised + worst > usd
            if must_wait:
                return None
            self._file.add(con, 1, worst)
        return worst

    def settle(self, promised: float, actual: float) -> None:
        """See Budget.settle."""
        with self._file.change() as con:
            self._file.add(con, -1, -promised)
            add_spent(con, self._account.name, actual)

    def renew(self) -> None:
        """To be called more often than every LEASE_SECONDS while calls are in flight."""
        with self._file.change():
            pass

    def close(self) -> None:
        """Leaves the account."""
        self._file.close()


class SharedRate(TokenRate):
    """A TokenRate whose next free moment is the account's, by the machine's clock."""

    def __init__(self, per_minute: int | None, account: Account, file: AccountFile) -> None:
        super().__init__(per_minute)
        self._name, self._file = account.name, file

    def wait(self, tokens: int, now: float) -> float:
        """See TokenRate.wait; `now` is of no account, workers have different ones."""
        if not self._seconds:
            return 0.0
        with self._file.change() as con:
            now = time.time()
            starts_at = max(now, self._read(con))
            self._write(con, starts_at + tokens * self._seconds)
        return starts_at - now

    def correct(self, tokens: int, actual: int) -> None:
        """See TokenRate.correct."""
        if self._seconds:
            with self._file.change() as con:
                self._write(con, self._read(con) + (actual - tokens) * self._seconds)

    def _read(self, con: sqlite3.Connection) -> float:
        query = "select free_at from accounts where account = ?"
        return float(con.execute(query, [self._name]).fetchone()[0])

    def _write(self, con: sqlite3.Connection, free_at: float) -> None:
        con.execute("update accounts set free_at = ? where account = ?", [free_at, self._name])


def budget_and_rate(limits: Limits, price: Price | None) -> tuple[Budget, TokenRate]:
    """Of the account, or without one of this process. Raises ValueError as Budget does."""
    usd, account, per_minute = limits.budget_usd, limits.account, limits.tokens_per_minute
    if account is None:
        return Budget(usd, price), TokenRate(per_minute)
    file = AccountFile(account)
    budget = SharedBudget(usd, price, limits.max_in_flight, account, file)
    return budget, SharedRate(per_minute, account, file)


def _sums(con: sqlite3.Connection, *accounts: str) -> tuple[float, float]:
    """USD spent and promised, of one account or, without a name, of all."""
    where = "where account = ?" if accounts else ""
    spent = con.execute(f"select sum(spent_usd) from accounts {where}", accounts).fetchone()[0]
    promised = con.execute(f"select sum(promised_usd) from workers {where}", accounts).fetchone()[0]
    return spent or 0.0, promised or 0.0


def _in_flight(con: sqlite3.Connection, account: str) -> int:
    query = "select sum(in_flight) from workers where account = ?"
    return con.execute(query, [account]).fetchone()[0] or 0
