"""What publish costs beside writing the file: checks, order, hash, disk, ledger; and its memory.

A night's labels of the train prompts, with rationales, and its rollouts with tokens are published
in turn with pyarrow writing the same rows, sorted already, in the same encodings. Rows come to
publish as stages leave them, shard after shard; shuffled ones are measured beside.
Not here: reading (warehouse.py).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from tests.benchmarks.figures import print_figure, print_ratio, seconds_in_turn
from tests.benchmarks.warehouse_nights import Nights, made_up_nights, night_commits
from tests.warehouse.builder import write_parquet
from warehouse.publish import publish, read_staged

REPEATS = 7


def print_publish(folder: Path, labels: int) -> None:
    """Rows a second of publish against pyarrow's, for labels and for rollouts."""
    folder.mkdir(parents=True, exist_ok=True)
    commits = night_commits(0, Nights(1, labels, tokens=64))
    rollouts = commits["train-rollouts"][0][1]
    rows = {
        "labels": pa.concat_tables(part for _, part in commits["train-labels"]),
        "rollouts": rollouts,
    }
    with tempfile.TemporaryDirectory(dir=folder) as here:
        known = Path(here) / "known"
        publish(known, "rollouts", {"rollouts": rollouts}, round=0)
        for name, table in rows.items():
            _print_publish(Path(here), name, table, known)
        write_parquet("labels", rows["labels"], Path(here) / "labels.parquet")
        call = f"from {__name__} import print_peak; print_peak({here!r})"
        subprocess.run([sys.executable, "-c", call], check=True)


def _print_publish(here: Path, name: str, rows: pa.Table, known: Path) -> None:
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(rows.num_rows)))
    for way in ("ours", "shuffled"):
        for repeat in range(REPEATS + 1):
            root = here / f"{name}-{way}-{repeat}"
            if name == "rollouts":  # the first that a warehouse gets
                root.mkdir()
            else:
                shutil.copytree(known, root)

    def ours(way: str, repeat: int, rows: pa.Table) -> None:
        publish(here / f"{name}-{way}-{repeat}", "rows", {name: rows}, round=0)

    ways = {
        "ours": lambda repeat: ours("ours", repeat, rows),
        "pyarrow": lambda _: write_parquet(name, rows, here / "bare.parquet"),
        "shuffled": lambda repeat: ours("shuffled", repeat, shuffled),
    }
    spent = seconds_in_turn(ways, REPEATS)
    slower = median(s.wall for s in spent["shuffled"]) / median(s.wall for s in spent["pyarrow"])
    print_ratio(
        f"publish {name}",
        "rows",
        rows.num_rows,
        spent["ours"],
        spent["pyarrow"],
        0.7,
        against="pyarrow",
        note=f"{rows.nbytes / 2**20:.0f} MB in memory; shuffled rows {1 / slower:.2f}",
    )


def print_peak(here: str) -> None:
    """Memory that publishing `labels.parquet` adds to its rows. Runs in a process of its own."""
    rows = read_staged([Path(here) / "labels.parquet"], "labels")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    publish(Path(here) / "known", "labels", {"labels": rows}, round=0)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    size = rows.nbytes / 2**20
    print(
        f"{'memory of publish':<28} {added:.0f} MB more than the {before:.0f} MB of a process that "
        f"has read {size:.0f} MB of labels",
        flush=True,
    )


def print_one_more_night(folder: Path, nights: Nights) -> None:
    """Publishing one more night's labels after a year against after one night."""
    warehouses = {"night": folder / "night", "year": folder / "year"}
    made_up_nights(warehouses["night"], Nights(1, nights.labels, nights.words))
    repeats = 5
    commits = [night_commits(nights.rounds + n, nights) for n in range(repeats + 1)]
    with tempfile.TemporaryDirectory(dir=folder) as here:
        copies = {name: Path(here) / name for name in warehouses}
        for name, copy in copies.items():
            # Files never change, so a copy of links is as good; new ones go to the copy alone.
            shutil.copytree(warehouses[name], copy, copy_function=os.link)
        spent = seconds_in_turn(
            {
                name: lambda n, copy=copy: _publish_night(copy, nights.rounds + n, commits[n])
                for name, copy in copies.items()
            },
            repeats,
        )
    first, later = (median(s.wall for s in spent[name]) for name in warehouses)
    print_figure(
        "a night's publishing",
        f"after a year {later:.2f} s, after one night {first:.2f} s, ratio {later / first:.2f}",
        wanted="0.8 to 1.2",
        is_met=later / first <= 1.2,
        note="rollouts, labels and rewards in five commits, checks included",
    )


def _publish_night(root: Path, number: int, commits: dict[str, list[tuple[str, pa.Table]]]) -> None:
    for key, parts in commits.items():
        tables = {name: pa.concat_tables(t for n, t in parts if n == name) for name, _ in parts}
        publish(root, f"round={number}/{key}", tables, round=number)
