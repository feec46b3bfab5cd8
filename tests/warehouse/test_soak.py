"""Killed at random moments, the warehouse loses nothing, doubles nothing and stays whole.

Up to eight processes race at one night: writers, a vacuum, a forget; all die by SIGKILL, at a
random moment or at a step inside a put. Then every version is held to the ledger, what the actors
were told is done is looked for, and the night is run again in peace: it must end in the rows that
were planned. Where nobody publishes, vacuums that take every orphan for old are killed as well.
"""

from __future__ import annotations

import ast
import math
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
import pytest

from tests.warehouse import soak_actors
from tests.warehouse.opened import read_table
from tests.warehouse.soak_actors import Orders, night, publish_night, sweep, victim
from warehouse.errors import Vacuumed
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.verify import verify
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store

SIGKILLED = -9
NIGHTS_A_LIFE = 1.5  # how many nights the longest life lasts, had each actor its share of the CPUs
MOST_STEPS = 120  # disk calls or network events; about a night of one writer
PATIENCE = 120.0  # seconds until an actor that kills itself must have done so
ROLES = ("writer", "writer", "writer", "vacuumer", "forgetter", "writer", "writer", "writer")


class Soak:
    """One warehouse and the actors on it."""

    def __init__(self, root: str, folder: Path, seed: int, actors: int, most: float) -> None:
        self._root = root
        self._folder = folder
        self._rng = random.Random(seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([soak_actors.__name__])
        names = [name for name in os.environ if name.startswith("AWS_")]
        self._environment = {name: os.environ[name] for name in names}
        self._environment["ROUNDHOUSE_CACHE"] = str(folder / "cache")
        self._actors = actors
        self.kills = self.orphans = 0
        begun = time.monotonic()
        publish_night(root, 0, lambda _: None)  # in peace
        share = max(1.0, actors / (os.cpu_count() or 1))
        self._life = min(most, NIGHTS_A_LIFE * share * (time.monotonic() - begun))

    def wave(self, number: int) -> None:
        """Actors race at night `number` and are killed; then everything is looked at."""
        self._race([self._orders(role, number) for role in ROLES[: self._actors]], self._life)
        self._check()
        sweepers = [self._orders("sweeper", number) for _ in range(self._actors // 4)]
        self._race(sweepers, self._life / 4)
        self._check()
        publish_night(self._root, number, lambda _: None)
        forget(self._root, [victim(number - 1)], by="soak", why="asked")
        self._check()
        assert_rows(self._root, number, is_victim_gone=False)
        assert_rows(self._root, number - 1, is_victim_gone=True)

    def summary(self, seed: int) -> str:
        """What happened, in one line."""
        commits = Ledger(open_store(self._root)).commits()
        reported = len(set(self._diaries("done")))
        return (
            f"seed {seed}: {self.kills} kills, {len(commits)} versions, "
            f"{self.orphans} orphans seen, {reported} keys reported"
        )

    def _orders(self, role: str, number: int) -> Orders:
        # Three of four writers die at a step, whatever the machine's load makes of moments.
        is_by_step = role == "writer" and self._rng.random() < 0.75
        step = self._rng.randrange(MOST_STEPS) if is_by_step else None
        seed = self._rng.getrandbits(40)
        diary = self._folder / f"{number}-{role}-{seed}.txt"
        return Orders(self._root, role, number, seed, diary, self._environment, step)

    def _race(self, orders: list[Orders], longest: float) -> None:
        """Every actor dies: by its own hand, or at a random moment."""
        begun = time.monotonic()
        ends = {}
        for one in orders:
            moment = PATIENCE if one.step is not None else self._rng.uniform(0, longest)
            ends[self._start(one)] = moment
        for process, end in sorted(ends.items(), key=lambda item: item[1]):
            process.join(max(0.0, begun + end - time.monotonic()))
            assert end < PATIENCE or process.exitcode == SIGKILLED
            process.kill()
        for process in ends:
            process.join()
            assert process.exitcode == SIGKILLED
        self.kills += len(orders)

    def _start(self, orders: Orders) -> BaseProcess:
        process = self._context.Process(target=soak_actors.act, args=(orders,))
        process.start()
        return process

    def _check(self) -> None:
        """Every version is whole, no key stands twice, and what was reported done is there."""
        assert list(self._diaries("error")) == []
        found = verify(self._root, all_versions=True)
        assert [problem for problem in found.problems if problem.kind != "forgotten"] == []
        self.orphans += len(found.orphans)
        keys = Counter(commit.key for commit in Ledger(open_store(self._root)).commits())
        assert [key for key, count in keys.items() if count > 1] == []
        assert set(self._diaries("done")) <= set(keys)

    def _diaries(self, wanted: str) -> Iterator[str]:
        for path in self._folder.glob("*.txt"):
            for line in path.read_text().splitlines(keepends=True):
                kind, _, text = line.partition(" ")
                if kind == wanted and line.endswith("\n"):
                    yield ast.literal_eval(text)


def assert_rows(root: str, number: int, *, is_victim_gone: bool) -> None:
    """The tables of a night hold exactly the rows of its plan."""
    for tables in night(number).values():
        for name, planned in tables.items():
            kept = [
                row
                for row in planned
                if not (is_victim_gone and row.get("prompt_id") == victim(number))
            ]
            if name == "labels":
                kept = [r for t in night(number).values() for r in t.get("labels", ()) if
                        not (is_victim_gone and r["prompt_id"] == victim(number))]  # fmt: skip
            is_ours = [number] if TABLES[name].by_round else None
            rows = read_table(root, name, rounds=is_ours)
            if name == "prompts":
                ids = [row["prompt_id"] for row in planned]
                rows = rows.filter(pa.compute.is_in(rows["prompt_id"], pa.array(ids)))
            assert plain(name, rows) == plain(name, table_from_rows(name, kept))


def plain(name: str, rows: pa.Table) -> list[dict[str, object]]:
    """The rows in the order of the key, without what differs between equal nights."""
    table = TABLES[name]
    kept = rows.drop_columns([c for c in table.volatile if c in rows.column_names])
    return kept.sort_by([(column, "ascending") for column in table.key]).to_pylist()


def assert_past_is_readable(root: str, last: int) -> None:
    """Every version since the last vacuum reads, and no version knows a forgotten prompt."""
    gone = {victim(number) for number in range(last)}
    head = Ledger(open_store(root)).head()
    readable = 0
    for version in range(head + 1):
        try:
            rows = read_table(root, "rollouts", columns=["prompt_id"], as_of=version)
        except Vacuumed:
            continue
        readable += 1
        assert not gone & set(rows["prompt_id"].to_pylist())
    assert readable >= min(soak_actors.KEPT_VERSIONS, head)


def assert_nothing_is_left_over(root: str) -> None:
    """After a last sweep in peace: what lies there is what the ledger knows, and nothing else."""
    sweep(root)
    found = verify(root, all_versions=True)
    assert found.problems == ()
    assert found.orphans == ()


def run(root: str, folder: Path, *, kills: int, actors: int, seed: int, most: float) -> None:
    """Waves until that many processes were killed; no life is longer than `most` seconds."""
    soak = Soak(root, folder, seed, actors, most)
    waves = math.ceil(kills / (actors + actors // 4))
    for number in range(1, waves + 1):
        soak.wave(number)
    print(soak.summary(seed))  # noqa: T201 (shown with a failure, and by -s)
    assert soak.kills >= kills
    if kills >= 100:  # few kills may all come between two publishes
        assert soak.orphans, "no publish was interrupted between its files and its commit"
    assert_past_is_readable(root, waves)
    assert_nothing_is_left_over(root)


@pytest.mark.parametrize("seed", [0])
def test_ten_kills_lose_and_double_nothing(store_root: str, tmp_path: Path, seed: int) -> None:
    run(store_root, tmp_path, kills=10, actors=8, seed=seed, most=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_two_hundred_kills_lose_and_double_nothing(
    store_root: str, tmp_path: Path, seed: int
) -> None:
    run(store_root, tmp_path, kills=200, actors=8, seed=seed, most=10.0)
