"""How far a stage is: heartbeat files of its workers, read by the driver as bars or plain lines.

Beam's FnApiRunner blocks until a job is done, and workers may be other processes, so progress
travels through small files: any process (`roundhouse status`, another terminal) can read them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from warehouse.files import write_atomically

HEARTBEAT_SECONDS = 0.25
LINE_SECONDS = 5.0


class Heartbeat:
    """Counts what one worker has done and writes it to `folder/progress-<name>.json`."""

    def __init__(self, folder: Path, name: str, total: int, unit: str) -> None:
        self._path = folder / f"progress-{name}.json"
        self._total, self._unit = total, unit
        self._done = 0
        self._fields: dict[str, float] = {}
        self._written_at = 0.0
        self._write()

    def update(self, done: int, total: int | None = None, **fields: float) -> None:
        """Sets the count so far; written at most four times a second."""
        self._done = done
        self._total = self._total if total is None else total
        self._fields.update(fields)
        if done >= self._total or time.monotonic() - self._written_at > HEARTBEAT_SECONDS:
            self._write()

    def advance(self, count: int) -> None:
        """Adds to the count so far."""
        self.update(self._done + count)

    def _write(self) -> None:
        self._written_at = time.monotonic()
        state = {"done": self._done, "total": self._total, "unit": self._unit, **self._fields}
        write_atomically(self._path, json.dumps(state))


@dataclass(frozen=True)
class Progress:
    """The sum over a stage's heartbeats: `done` of `total` `unit`s."""

    done: int
    total: int
    unit: str
    fields: dict[str, float]


def read_progress(folder: Path) -> Progress | None:
    """Sums the heartbeats of a staging folder; None before the first."""
    done = total = 0
    unit, fields = "rows", dict[str, float]()
    found = False
    for path in sorted(folder.glob("progress-*.json")):
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # it is being replaced or swept: the next look will see it
        found = True
        done, total, unit = done + state.pop("done"), total + state.pop("total"), state.pop("unit")
        fields.update(state)
    return Progress(done, total, unit, fields) if found else None


class StageDisplay:
    """Shows one stage while it runs: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, label: str, pattern: Path, stream: TextIO | None = None) -> None:
        """`pattern`: the stage's staging folder, its hash as `*`, which only the stage knows."""
        self._label, self._pattern = label, pattern
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> StageDisplay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        show = self._bar() if self._stream.isatty() else self._lines()
        while not self._stop.wait(HEARTBEAT_SECONDS):
            show(self._read())
        show(self._read(), True)

    def _read(self) -> Progress | None:
        folders = [p for p in self._pattern.parent.glob(self._pattern.name) if p.is_dir()]
        newest = max(folders, key=lambda p: p.stat().st_mtime, default=None)
        return read_progress(newest) if newest else None

    def _bar(self) -> Callable[..., None]:
        bar = tqdm(desc=self._label, total=None, file=self._stream, leave=False, unit="rows")

        def show(progress: Progress | None, last: bool = False) -> None:
            if progress:
                bar.total, bar.unit = progress.total, progress.unit
                bar.set_postfix({k: f"{v:.3g}" for k, v in progress.fields.items()}, refresh=False)
                bar.n = progress.done
            bar.refresh()
            if last:
                bar.close()

        return show

    def _lines(self) -> Callable[..., None]:
        printed_at = time.monotonic()

        def show(progress: Progress | None, last: bool = False) -> None:
            nonlocal printed_at
            if last or time.monotonic() - printed_at < LINE_SECONDS:
                return
            printed_at = time.monotonic()
            print(self.line(progress), file=self._stream, flush=True)

        return show

    def line(self, progress: Progress | None) -> str:
        """`night 0 · sampling: 512/1024 completions, 170/s, 3 s left`."""
        seconds = time.monotonic() - self._started
        if progress is None or not progress.total:
            return f"{self._label}: starting, {seconds:.0f} s"
        rate = progress.done / seconds if seconds else 0.0
        left = (progress.total - progress.done) / rate if rate else float("nan")
        remaining = f"{left:.0f} s left" if progress.done else "no estimate yet"
        fields = "".join(f", {k} {v:.3g}" for k, v in progress.fields.items())
        return (
            f"{self._label}: {progress.done}/{progress.total} {progress.unit}, "
            f"{rate:.0f}/s, {remaining}{fields}"
        )
