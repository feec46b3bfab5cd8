"""How much slower starters are trained beside a busy core, with threads that soon sleep or spin.

Two threads on two cores, one of which another process keeps busy: threads that spin while they
wait take each other's time. Each way is a process of its own (OpenMP reads the environment once),
and all run in turn on the same two cores. Not here: how long the full starters take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.figures import print_figure

WANTED = 2.5  # times the quiet time
# GNU OpenMP spins so often where nobody says how to wait.
WAYS = {"soon asleep": {"GOMP_SPINCOUNT": "1000"}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
# The training alone of the tiny starters, without imports and texts.
_TRAINING = """
import sys, time
from pathlib import Path
from training.starters.recipe import build_starters
began = []
def progress(what, done, total):
    began or began.append(time.perf_counter())
build_starters(Path(sys.argv[1]), None, seed=0, budget="tiny", progress=progress)
print(time.perf_counter() - began[0])
"""


def main() -> None:
    """Prints the quiet and the busy seconds of both ways, and their ratios."""
    if not hasattr(os, "sched_setaffinity"):
        print("busy_machine: needs an operating system that pins processes to cores")
        return
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    quiet = {name: _seconds(way, cores) for name, way in WAYS.items()}
    with _busy(max(cores)):
        busy = {name: _seconds(way, cores) for name, way in WAYS.items()}
    for name in WAYS:
        ratio = busy[name] / quiet[name]
        print_figure(
            f"starters, threads {name}",
            f"quiet {quiet[name]:.1f} s, beside a busy core {busy[name]:.1f} s, ratio {ratio:.2f}",
            wanted=f"<= {WANTED:g}",
            is_met=ratio <= WANTED,
            note="" if name == "soon asleep" else "for comparison, not what a stage does",
        )


def _seconds(settings: dict[str, str], cores: set[int]) -> float:
    """The training's wall time in a process with these settings, on these cores."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_WAIT", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _TRAINING, folder],
            env=inherited | settings,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    return float(done.stdout)


@contextmanager
def _busy(core: int) -> Iterator[None]:
    """Another process that never waits, on this core."""
    spinner = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()
