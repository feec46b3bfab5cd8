"""The house holds: imports run downwards, files stay small, light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "warehouse": set(),
    "labeling": {"warehouse"},
    "training": {"warehouse"},
    "pipeline": {"warehouse", "labeling", "training"},
}
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        found |= {name.split(".")[0] for name in names}
    return found & ROOMS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path: Path):
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) <= ROOMS[room] | {room}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_is_one_room(path: Path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350


def test_only_the_given_folders_stand_at_the_top():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    tops = {name.split("/")[0] for name in tracked}
    allowed = {*ROOMS, "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE"}
    assert {top for top in tops if not top.startswith(".")} <= allowed


def test_light_commands_import_nothing_heavy():
    script = (
        "import sys, pipeline.cli, pipeline.status, pipeline.console, warehouse.catalog\n"
        "heavy = {'torch', 'vllm', 'apache_beam', 'transformers', 'matplotlib', 'scipy'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
