"""A stage's process: its value, its failures, its log, and nothing that outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ConfigError, StageFailed
from pipeline.runtime import process as stage_process
from pipeline.runtime.process import run_in_process


@pytest.fixture(autouse=True)
def no_warm_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_process, "_WARM", [])


def run(target, *arguments: object, log: Path):
    return run_in_process(target, arguments, log=log, device="cpu")


def double(number: int) -> int:
    sys.stdout.write(f"doubling {number}\n")
    sys.stderr.write("aside\n")
    return 2 * number


def complain(kind: type[Exception]) -> None:
    raise kind("labelers.x: no such thing")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(path: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid))


def test_the_value_comes_back_and_output_goes_to_the_log(tmp_path, capfd):
    log = tmp_path / "logs" / "stage.log"
    value, startup = run(double, 21, log=log)
    assert value == 42
    assert 0 <= startup < 60
    assert set(log.read_text().split("\n")) >= {"doubling 21", "aside"}
    assert capfd.readouterr().out == ""


def test_an_error_is_named_with_its_log(tmp_path):
    log = tmp_path / "stage.log"
    with pytest.raises(StageFailed, match=r"ValueError: labelers.x: no such thing") as caught:
        run(complain, ValueError, log=log)
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()


def test_wrong_use_stays_wrong_use(tmp_path):
    with pytest.raises(ConfigError, match=r"labelers\.x: no such thing"):
        run(complain, ConfigError, log=tmp_path / "stage.log")


def test_a_killed_stage_says_how_to_go_on(tmp_path):
    with pytest.raises(StageFailed, match=r"died \(exit code -9\).*(\n.*)*same command again"):
        run(die, log=tmp_path / "stage.log")


def test_what_a_stage_started_ends_with_it(tmp_path):
    run(leave_a_child, str(tmp_path / "pid"), log=tmp_path / "stage.log")
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the stage's child outlived it"
        time.sleep(0.05)
