"""A small night on real parts for the integration tests: the configuration, runs, comparisons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tests.commands import roundhouse
from tests.warehouse.opened import read_table
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store

STARTERS = "policy.starter_budget=small"
SMALL = [
    STARTERS,
    "rounds=2",
    "rollouts.prompts=48",
    "rollouts.samples=2",
    "rollouts.holdout_prompts=40",
    "rollouts.holdout_samples=2",
    "beam.shard_rows=32",
    "evaluation.stop_below=null",
]


def command(root: Path, *more: str, verb: str = "run", config: str = "demo") -> list[str]:
    """`roundhouse run demo --set ...` on this warehouse, small."""
    sets = [f"warehouse={root}", *SMALL, *more]
    return [sys.executable, "-m", "pipeline.cli", verb, config] + [
        word for one in sets for word in ("--set", one)
    ]


def run(root: Path, *more: str, code: int = 0, **kwargs: str) -> subprocess.CompletedProcess[str]:
    """Runs it to the end, without a process of its own, and holds the exit code."""
    return roundhouse(*command(root, *more, **kwargs)[3:], code=code)


def environment() -> dict[str, str]:
    """One OMP thread: sums of floats then have one order, and busy machines do not spin."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def tables(root: Path) -> dict[str, pa.Table]:
    """Every table without what differs between two equal nights by nature, sorted by its key."""
    found = {}
    for name, table in TABLES.items():
        rows = read_table(root, name)
        if name == "training_metrics":
            rows = rows.filter(pc.invert(pc.match_substring(rows["metric"], "second")))
        kept = [c for c in rows.column_names if c not in table.volatile]
        found[name] = rows.select(kept).sort_by([(c, "ascending") for c in table.key])
    return found


def assert_same(first: Path, second: Path) -> None:
    """The same tables, row by row."""
    ours, theirs = tables(first), tables(second)
    for name in TABLES:
        assert ours[name].num_rows == theirs[name].num_rows, name
        for column in ours[name].column_names:
            assert ours[name][column].equals(theirs[name][column]), f"{name}.{column}"


def keys(root: Path) -> list[str]:
    """The ledger's keys, in order."""
    return [commit.key for commit in Ledger(open_store(root)).commits()]
