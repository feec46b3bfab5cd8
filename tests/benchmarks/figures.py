"""What benchmarks share: the machine's line, a figure's line, timing in turn. Not here: figures."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipeline.runtime.machine import choose_device, package_versions


def machine_line() -> str:
    """Cores, bf16, allocator, versions and load: what a number means depends on all of them."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    bf16 = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    tcmalloc = "yes" if "tcmalloc" in os.environ.get("LD_PRELOAD", "") else "no"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return (
        f"machine: {choose_device('auto')}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}, "
        f"CPU bf16 {'+'.join(bf16) or 'no'}, tcmalloc {tcmalloc}, load {load} before the start; "
        f"Python {platform.python_version()}, {versions}"
    )


def print_figure(name: str, numbers: str, *, wanted: str, is_met: bool, note: str = "") -> None:
    """One line: name, the absolute numbers and what is wanted, whether it is met."""
    verdict = "met" if is_met else "NOT MET"
    tail = f"; {note}" if note else ""
    print(f"{name:<28} {numbers}  (wanted {wanted}: {verdict}{tail})", flush=True)


@dataclass(frozen=True)
class Seconds:
    """Of one run: wall time, and CPU time of this process (which busy neighbours hardly touch)."""

    wall: float
    cpu: float


def seconds_in_turn(
    ways: Mapping[str, Callable[[int], object]], repeats: int
) -> dict[str, list[Seconds]]:
    """What each way takes, run A B C A B C..., so that a busy moment hits all alike.

    Each is called with the number of the repeat, and once with 0 before, unmeasured, to warm up.
    """
    for way in ways.values():
        way(0)
    spent: dict[str, list[Seconds]] = {name: [] for name in ways}
    for repeat in range(1, repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way(repeat)
            spent[name].append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
    return spent


def print_ratio(
    name: str, unit: str, count: int, ours: list[Seconds], theirs: list[Seconds], wanted: float,
    *, against: str, note: str = "",
) -> None:  # fmt: skip
    """Rates through the stage and the other way, and the ratio of their median wall times.

    Beside it, where the engine works in this process, the ratio of their median CPU times.
    """
    rate, other = (count / median(s.wall for s in spent) for spent in (ours, theirs))
    if choose_device("auto") == "cpu":
        in_cpu = median(s.cpu for s in theirs) / median(s.cpu for s in ours)
        note = f"in CPU time {in_cpu:.2f}; {note}"
    print_figure(
        name,
        f"stage {rate:,.0f} {unit}/s, {against} {other:,.0f} {unit}/s, ratio {rate / other:.2f}",
        wanted=f">= {wanted:g}",
        is_met=rate / other >= wanted,
        note=note,
    )


def build_starters_once() -> None:
    """The starters are in the cache afterwards; built in a process that leaves nothing behind."""
    call = "from training.starters.starters import starter_path; starter_path('starter-policy')"
    subprocess.run([sys.executable, "-c", call], check=True)
