"""Commands as a person types them, through the same `main`, without a process of their own.

Imports then cost once instead of once in each command. What a test kills, what needs a terminal or
an environment of its own runs as a real process.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from pipeline.cli import main
from pipeline.configs.loading import load_config
from pipeline.runtime.machine import choose_device
from pipeline.runtime.preloads import NIGHT, preloads
from pipeline.runtime.process import warm_up

_WITHOUT_STAGES = {
    "accept", "audit", "describe", "export", "import", "lineage", "query", "reject", "report",
    "sql", "status", "verify",
}  # fmt: skip


def roundhouse(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What `roundhouse WORDS` said; it must end with this exit code."""
    typed = [str(word) for word in words]
    if typed[0] not in _WITHOUT_STAGES:
        _start_stages()
    out, err = io.StringIO(), io.StringIO()
    ended: str | int | None = None
    with (
        mock.patch.object(sys, "argv", ["roundhouse", *typed]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            ended = end.code
    done = subprocess.CompletedProcess(typed, int(ended or 0), out.getvalue(), err.getvalue())
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@functools.cache
def _start_stages() -> None:
    """A fork server with what any stage imports, for all commands that this process runs.

    Another one, which a test has started with less, would leave the imports to every stage.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    log = Path(tempfile.mkdtemp(prefix="roundhouse-tests-")) / "imports.log"
    # One thread: sums of floats then have one order, and busy machines do not spin.
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        warm_up(choose_device("auto"), log, preloads(load_config("demo"), NIGHT))
