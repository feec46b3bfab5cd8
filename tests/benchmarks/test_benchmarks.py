"""The benchmarks' command line: which names there are, and that it is light until one runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_name_is_a_module():
    assert list(BENCHMARKS) == [
        *("rollouts", "labels", "onnx_backend", "overhead", "busy_machine", "remote_judge"),
        *("local_judge", "ppo_update", "warehouse", "learning"),
    ]
    for name in BENCHMARKS:
        assert importlib.util.find_spec(f"tests.benchmarks.{name}") is not None


def test_an_unknown_name_is_wrong_use():
    done = python("-m", "tests.benchmarks", "labels", "speed")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no benchmark speed" in done.stderr
    assert all(f"  {name} " in done.stderr for name in BENCHMARKS)


def test_the_registry_loads_nothing_heavy():
    heavy = "{'torch', 'vllm', 'transformers', 'apache_beam'}"
    done = python("-c", f"import sys, tests.benchmarks.__main__; print({heavy} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr
