"""What a round costs beside its work, and how long `roundhouse sql` takes from nothing.

One round of the demo in a fresh warehouse, starters from the cache: every stage process, import and
model load is paid as a user pays it. Imports and model loading are shown apart: they do not grow
with the round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from pipeline.configs.loading import load_config
from pipeline.night import run_rounds
from pipeline.runtime.timings import StageTiming, time_by_kind
from tests.benchmarks.figures import build_starters_once, print_figure

WORK = ("sampling", "labelling", "training")
APART = ("imports and processes", "model loading", "starter models")
QUERY, COLD_STARTS = "select * from toxicity_by_round", 5


def main() -> None:
    """Prints the shares of one round's wall time and the cold start of `roundhouse sql`."""
    build_starters_once()
    with tempfile.TemporaryDirectory() as here:
        warehouse = f"{here}/warehouse"
        config = load_config("demo", [f"warehouse={warehouse}"])
        started = time.monotonic()
        run = run_rounds(config, 1, lambda _: None)
        total = time.monotonic() - started
        _print_shares(run.timings, total)
        _print_cold_start(warehouse)


def _print_shares(timings: list[StageTiming], total: float) -> None:
    """`total` is wall time of the whole call, so what happens between stages is overhead too."""
    spent = time_by_kind(timings)
    parts = {name: spent.get(name, 0.0) for name in (*WORK, *APART)}
    overhead = total - sum(parts.values())
    shown = ", ".join(f"{name} {s:.1f} s ({s / total:.0%})" for name, s in parts.items())
    print_figure(
        "overhead",
        f"{overhead:.1f} s of {total:.1f} s, share {overhead / total:.1%}; {shown}",
        wanted="< 15 %",
        is_met=overhead / total < 0.15,
        note=f"one demo round, policies 0 and 1 evaluated; the overhead is {_rest(timings)}",
    )


def _rest(timings: list[StageTiming]) -> str:
    """The overhead by kind of stage, largest first, with the number of stages of the kind."""
    rest: dict[str, list[float]] = {}
    for timing in timings:
        others = time_by_kind([timing])["everything else"]
        rest.setdefault(timing.kind, []).append(others)
    largest = sorted(rest.items(), key=lambda item: -sum(item[1]))
    return ", ".join(f"{kind} {sum(s):.1f} s in {len(s)}" for kind, s in largest)


def _print_cold_start(warehouse: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "sql", warehouse, QUERY]
    seconds = []
    for _ in range(COLD_STARTS):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    print_figure(
        "sql cold start",
        f"best {min(seconds):.2f} s, median {statistics.median(seconds):.2f} s of {COLD_STARTS}",
        wanted="< 1 s",
        is_met=statistics.median(seconds) < 1,
        note=f'roundhouse sql WAREHOUSE "{QUERY}"',
    )
