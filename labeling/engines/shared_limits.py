"""Limits that all processes of one machine keep together, in one SQLite file.

A worker (one engine in one process) has a row per account: the calls it has in flight and the USD
set aside for them. Whatever it does renews the row's lease. A worker that was killed is given up
when its lease ends: its slots come back, and what it had set aside counts as spent, since those
calls may be billed. Times are wall time, which is the one clock processes share. Not here: who
waits (dispatch.py), the arithmetic of one process (prices.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from labeling.engines.chat import BudgetSpent
from labeling.engines.prices import Budget, Price, TokenRate
from labeling.label import LabelingError

_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY, spent REAL NOT NULL DEFAULT 0, free_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT, account TEXT, promised REAL NOT NULL DEFAULT 0,
    in_flight INTEGER NOT NULL DEFAULT 0, lease_ends REAL NOT NULL,
    PRIMARY KEY (worker, account)
);
"""
_BUSY_SECONDS = 60.0


class SharedLimits:
    """What a worker shares with all others that opened the same file."""

    def __init__(
        self, path: Path, account: str, *, run_usd: float | None, lease_seconds: float
    ) -> None:
        """`account`: whose slots, rate and spending; `run_usd`: of all accounts together."""
        self._path, self._account = path, account
        self._run_usd, self._lease_seconds = run_usd, lease_seconds
        self._worker = uuid.uuid4().hex
        self._open: sqlite3.Connection | None = None
        self._turn = threading.Lock()

    def budget(self, usd: float | None, price: Price | None) -> SharedBudget:
        """`usd` limits this account, `run_usd` all. Raises ValueError for one without a price."""
        return SharedBudget(self, usd, self._run_usd, price)

    def rate(self, per_minute: int | None) -> TokenRate:
        """Of this account."""
        return TokenRate(None) if per_minute is None else SharedRate(self, per_minute)

    def take_slot(self, count: int) -> bool:
        """Whether this account had fewer than `count` calls in flight; this one is now another."""
        with self.transaction() as work:
            is_free = work.in_flight() < count
            work.change_worker(in_flight=int(is_free))
            return is_free

    def give_slot(self) -> None:
        """Ends a call in flight."""
        with self.transaction() as work:
            work.change_worker(in_flight=-1)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, one process at a time. Raises LabelingError that names the file."""
        with self._turn:
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Transaction(
                        connection, self._worker, self._account, time.time(), self._lease_seconds
                    )
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise LabelingError(
                    f"{self._path}: {error}; the shared budget cannot be kept without this file"
                ) from error

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._turn:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _connected(self) -> sqlite3.Connection:
        if self._open is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # A killed process loses nothing by this; only a power cut could lose the last calls.
            self._open.execute("PRAGMA journal_mode = WAL")
            self._open.execute("PRAGMA synchronous = NORMAL")
            self._open.executescript(_TABLES)
        return self._open


class Transaction:
    """Reads and changes of one worker, within SharedLimits.transaction()."""

    def __init__(
        self, connection: sqlite3.Connection, worker: str, account: str, now: float, lease: float
    ) -> None:
        self._connection, self._worker, self._account = connection, worker, account
        self.now, self._lease = now, lease
        connection.execute("INSERT OR IGNORE INTO accounts (account) VALUES (?)", (account,))
        self._give_up_the_dead()

    def in_flight(self) -> int:
        """Calls of this account."""
        row = self._row("SELECT sum(in_flight) FROM workers WHERE account = ?", self._account)
        return int(row[0] or 0)

    def spent(self, *, run: bool = False) -> float:
        """USD of this account, or of the whole run."""
        row = self._row(
            "SELECT sum(spent) FROM accounts WHERE ? OR account = ?", run, self._account
        )
        return row[0] or 0.0

    def promised(self, *, run: bool = False, mine: bool = False) -> float:
        """USD set aside by this account's workers, by all of the run, or by this one worker."""
        row = self._row(
            "SELECT sum(promised) FROM workers WHERE (? OR account = ?) AND (NOT ? OR worker = ?)",
            *(run, self._account, mine, self._worker),
        )
        return row[0] or 0.0

    def free_at(self) -> float:
        """When this account's next call may start."""
        row = self._row("SELECT free_at FROM accounts WHERE account = ?", self._account)
        return float(row[0])

    def set_free_at(self, moment: float) -> None:
        """See free_at."""
        self._row("UPDATE accounts SET free_at = ? WHERE account = ?", moment, self._account)

    def spend(self, usd: float) -> None:
        """Adds to this account's spending."""
        self._row("UPDATE accounts SET spent = spent + ? WHERE account = ?", usd, self._account)

    def change_worker(self, *, promised: float = 0.0, in_flight: int = 0) -> None:
        """Adds to what this worker holds (never below nothing) and renews its lease."""
        self._row(
            "INSERT INTO workers VALUES (?1, ?2, max(0, ?3), max(0, ?4), ?5) "
            "ON CONFLICT DO UPDATE SET promised = max(0, promised + ?3), "
            "in_flight = max(0, in_flight + ?4), lease_ends = ?5",
            *(self._worker, self._account, promised, in_flight, self.now + self._lease),
        )

    def _give_up_the_dead(self) -> None:
        dead = self._connection.execute(
            "DELETE FROM workers WHERE lease_ends < ? RETURNING account, promised", (self.now,)
        )
        for account, promised in dead.fetchall():
            self._row("UPDATE accounts SET spent = spent + ? WHERE account = ?", promised, account)

    def _row(self, statement: str, *values: object) -> tuple[float, ...]:
        row: tuple[float, ...] | None = self._connection.execute(statement, values).fetchone()
        return row or (0,)


class SharedBudget(Budget):
    """See Budget; of one account and of the whole run, over all workers."""

    # What others have in flight may be settled without a word to this process.
    poll_seconds = 0.05

    def __init__(
        self,
        shared: SharedLimits,
        usd: float | None,
        run_usd: float | None,
        price: Price | None,
    ) -> None:
        """Raises ValueError for a limit without a price."""
        super().__init__(run_usd if usd is None else usd, price)
        self._shared = shared
        self._limits = (("engine.budget_usd", usd, False), ("budget_usd", run_usd, True))

    @property
    def spent(self) -> float:
        """USD of this account."""
        with self._shared.transaction() as work:
            return work.spent()

    def set_aside(self, worst: float) -> float | None:
        """See Budget.set_aside; BudgetSpent names the key of the limit that is reached."""
        with self._shared.transaction() as work:
            must_wait = False
            for key, usd, is_run in self._limits:
                if usd is None:
                    continue
                spent = work.spent(run=is_run)
                if spent + worst > usd:
                    raise BudgetSpent(
                        f"{key}: {spent:.6g} of {usd:g} USD are spent and the next call may cost "
                        f"{worst:.6g}; raise {key} to go on from here, what was paid for is kept"
                    )
                must_wait |= spent + work.promised(run=is_run) + worst > usd
            if must_wait:
                return None
            work.change_worker(promised=worst)
            return worst

    def settle(self, promised: float, actual: float) -> None:
        """See Budget.settle."""
        if promised == actual == 0:
            return
        with self._shared.transaction() as work:
            # What this worker was given up for counts as spent already.
            given_up = max(0.0, promised - work.promised(mine=True))
            work.change_worker(promised=-promised)
            work.spend(actual - given_up)


class SharedRate(TokenRate):
    """See TokenRate; of one account over all workers."""

    def __init__(self, shared: SharedLimits, per_minute: int) -> None:
        super().__init__(per_minute)
        self._shared = shared

    def wait(self, tokens: int, now: float) -> float:  # noqa: ARG002 (the clock is the file's)
        """See TokenRate.wait."""
        with self._shared.transaction() as work:
            starts_at = max(work.now, work.free_at())
            work.set_free_at(starts_at + tokens * self._seconds)
            work.change_worker()
            return starts_at - work.now

    def correct(self, tokens: int, actual: int) -> None:
        """See TokenRate.correct."""
        with self._shared.transaction() as work:
            work.set_free_at(work.free_at() + (actual - tokens) * self._seconds)
