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

from labeling.errors import LabelingError
from labeling.rewards.terms import RewardError
from pipeline.errors import ConfigError, StageFailed
from pipeline.runtime.process import run_in_process
from training.policy.adapters import AdapterError


def run(target, *arguments: object, log: Path):
    return run_in_process(target, arguments, log=log, device="cpu")


def double(number: int) -> int:
    sys.stdout.write(f"doubling {number}\n")
    sys.stderr.write("aside\n")
    return 2 * number


def complain(kind: type[Exception]) -> None:
    raise kind("labelers.x: no such thing")


def imported(names: list[str]) -> list[str]:
    return [name for name in names if name in sys.modules]


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


@pytest.mark.parametrize("kind", [ConfigError, RewardError, AdapterError])
def test_wrong_use_stays_wrong_use(tmp_path, kind):
    with pytest.raises(ConfigError, match=r"^labelers\.x: no such thing$"):
        run(complain, kind, log=tmp_path / "stage.log")
    assert "Traceback" in (tmp_path / "stage.log").read_text()


def test_an_error_of_ours_is_said_without_its_class(tmp_path):
    log = tmp_path / "stage.log"
    with pytest.raises(StageFailed, match=r"^labelers\.x: no such thing\nIts log: "):
        run(complain, LabelingError, log=log)


def test_stages_find_imported_what_the_server_was_told_and_nothing_else(tmp_path):
    # In a process of its own: a fork server starts once.
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.runtime.process import run_in_process, warm_up\n"
        "from tests.pipeline.runtime.test_process import imported\n"
        f"log = Path({str(tmp_path / 'stage.log')!r})\n"
        "warm_up('cpu', log, ['tabnanny', 'no.such.module'])\n"
        "names = ['tabnanny', 'torch', 'vllm']\n"
        "print(run_in_process(imported, (names,), log=log, device='cpu')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['tabnanny']\n"


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
