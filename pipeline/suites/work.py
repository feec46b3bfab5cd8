"""The hidden folder in which a command that writes one file works, and what stays of it.

Nothing stays of a command that ends, well or not, but the logs of a stage that failed; a kill
leaves the folder `.OUT.*` beside OUT. Not here: how OUT itself is written (warehouse/files.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StageFailed
from pipeline.runtime.process import run_in_process
from pipeline.runtime.progress import StageDisplay
from warehouse.files import work_folder

PROGRESS = "progress"


def logs_of(work: Path) -> Path:
    """Where the stages of a work folder log: beside it, so that it can stay when it goes."""
    return work.with_name(f"{work.name}.logs")


@contextlib.contextmanager
def stage_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, on the same disk.

    Raises ConfigError where `out` cannot be written, StageFailed saying that it is not.
    """
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file")
    with work_folder(out) as work, contextlib.ExitStack() as swept:
        swept.callback(shutil.rmtree, logs_of(work), ignore_errors=True)
        try:
            yield work
        except StageFailed as error:
            swept.pop_all()
            reason = str(error).partition("\nWhat it had finished")[0]  # nothing is kept here
            raise StageFailed(f"{reason}\n{out} is not written.") from error


def run_stage(
    work: Path, name: str, kind: str, target: Callable[..., Any], *arguments: object, device: str
) -> Any:
    """What `target(*arguments)` returns in a process of its own, shown by what it writes here."""
    with StageDisplay(f"{name} ({kind})", work / PROGRESS):
        log = logs_of(work) / f"{name}-{kind}.log"
        value, _ = run_in_process(target, arguments, log=log, device=device)
    shutil.rmtree(work / PROGRESS, ignore_errors=True)
    return value


def write_texts(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Rows for the labelers (texts.py) as lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
