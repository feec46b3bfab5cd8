"""Commands that need no model import none of its packages: they start at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warehouse.builder import small_warehouse

HEAVY = ("torch", "vllm", "apache_beam", "transformers", "trl", "datasets")
# One process for all: what a command imports stays imported, so the first to import is named.
SCRIPT = """
import contextlib, io, json, sys
from pipeline.cli import main
found = []
commands, heavy = json.loads(sys.argv[1])
for words in commands:
    sys.argv = ["roundhouse", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    there = [name for name in heavy if name in sys.modules]
    found.append([words, code, there, said.getvalue()[-300:]])
print(json.dumps(found))
"""


def outcomes(commands: list[list[str]]) -> list[tuple[list[str], int, list[str], str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([commands, HEAVY])],
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_warehouse(tmp_path_factory.mktemp("light") / "warehouse"))


def test_a_command_without_a_model_imports_none(root: str, tmp_path: Path):
    rollout = "select rollout_id from rollouts limit 1"
    right = [
        ["--help"],
        ["run", "--help"],
        ["audit", "--help"],
        ["status", root],
        ["sql", root, rollout],
        ["query", root, "toxicity_by_round"],
        ["query", root, "calibration_bins"],
        ["describe", root, "labels"],
        ["report", root, "--out", str(tmp_path / "report.html")],
        ["lineage", root, "--round", "0"],
        ["audit", "sample", root, "--count", "8", "--out", str(tmp_path / "sheet.csv")],
        ["export", root, "dpo", "--out", str(tmp_path / "pairs.jsonl")],
        ["verify", root],
        ["vacuum", root],
        ["run", "demo", "--dry-run", "--set", f"warehouse={root}"],
        ["accept", root, "--round", "0", "--by", "anna", "--why", "looked at it"],
    ]
    wrong = [
        ["audit", "agreement", root],
        ["run", "demo", "--no-such-option=1", "--rounds", "none"],
        ["status", str(tmp_path / "nothing")],
        ["run", "no-such-configuration"],
        ["run", "demo", "--set", "training.no_such_key=1"],
    ]
    found = outcomes([*right, *wrong])
    assert [(words, heavy) for words, _, heavy, _ in found if heavy] == []
    codes = [(words, code, said) for words, code, _, said in found]
    assert [one for one in codes[: len(right)] if one[1] != 0] == []
    assert [code for _, code, _ in codes[len(right) :]] == [1, 2, 1, 2, 2], codes[len(right) :]
