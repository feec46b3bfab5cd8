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
from warehouse.data_files import write_parquet
from warehouse.publish import publish

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
        for name, table in rows.items():
            _print_publish(Path(here), name, table, rollouts)
    peak = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import print_peak; print_peak({labels})"],
        check=True,
        capture_output=True,
        text=True,
    )
    print(peak.stdout, end="", flush=True)


def _print_publish(here: Path, name: str, rows: pa.Table, rollouts: pa.Table) -> None:
    order = np.random.default_rng(0).permutation(rows.num_rows)
    shuffled = rows.take(pa.array(order))

    def ours(repeat: int, rows: pa.Table = rows) -> None:
        root = here / f"{name}-{repeat}"
        if name != "rollouts":
            shutil.copytree(known, root)
        publish(root, "rows", {name: rows}, round=0)
        shutil.rmtree(root)

    known = here / f"known-{name}"
    publish(known, "rollouts", {"rollouts": rollouts}, round=0)
    ways = {
        "ours": ours,
        "pyarrow": lambda _: write_parquet(name, rows, here / "bare.parquet"),
        "shuffled": lambda repeat: ours(repeat, shuffled),
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


def print_peak(labels: int) -> None:
    """Memory that publishing a night's train labels adds to its rows. Runs in its own process."""
    commits = night_commits(0, Nights(1, labels))
    rows = pa.concat_tables(part for _, part in commits["train-labels"])
    with tempfile.TemporaryDirectory() as here:
        publish(here, "rollouts", {"rollouts": commits["train-rollouts"][0][1]}, round=0)
        del commits
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        publish(here, "labels", {"labels": rows}, round=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = rows.nbytes / 2**20
    print(
        f"{'memory of publish':<28} {peak - before:.0f} MB above the {before:.0f} MB of a process "
        f"that had made the rows, for {size:.0f} MB of labels"
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
