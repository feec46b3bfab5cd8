"""The house holds: imports run downwards, files and folders stay small, light modules light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "warehouse": set(),
    "labeling": {"warehouse"},
    "training": {"warehouse"},
    "pipeline": {"warehouse", "labeling", "training"},
}
# Rooms within rooms, lowest first: an import reaches only what stands below, `|` is side by side.
FLOORS = {
    "warehouse": [
        "errors",
        "columns | keys | files",
        "schemas",
        "store",
        "ledger",
        "catalog",
        "handle",
        "maintenance | incoming",
        "publish | report | lineage | console | __init__",
    ],
    "labeling": [
        "errors | section | refusal",
        "label | shipped",
        "labeler | trust",
        "engines | rewards",
        "judges",
        "labelers | reviser",
        "gate",
    ],
    "training": ["errors | revision", "policy", "ppo | preference", "starters"],
    "pipeline": [
        "errors | sampling | holdout",
        "config",
        "configs | runtime",
        "policies | ingest | audit | forgetting",
        "preferences",
        "stages",
        "night | suites",
        "plan | relabel | replay",
        "commands",
        "cli",
    ],
}
FLOOR = {
    (room, place.strip()): height
    for room, floors in FLOORS.items()
    for height, floor in enumerate(floors)
    for place in floor.split("|")
}
MOST_ENTRIES = 20
FACES = {"__pycache__", "__init__.py", "README.md"}
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


def place_of(module: str) -> tuple[str, str]:
    """The room, and the folder or file on its ground floor, of a dotted module name."""
    room, _, rest = module.partition(".")
    return room, rest.split(".")[0] or "__init__"


def upward_imports(module: str, text: str) -> list[str]:
    here = place_of(module)
    found = []
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.ImportFrom) and node.module):
            continue
        if node.module.split(".")[0] != here[0]:
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if node.module == here[0] else node.module
            there = place_of(whole)
            if there != here and FLOOR[there] >= FLOOR[here]:
                found.append(f"line {node.lineno}: {here[1]} imports {there[1]}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_within_a_room_imports_reach_only_what_stands_below(path: Path):
    if (
        path.name == "__init__.py"
        and path.parent.name in FLOORS
        and path.parent.name != "warehouse"
    ):
        pytest.skip("the face of a room")
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert upward_imports(module, path.read_text()) == []


def test_an_import_upwards_is_found():
    text = "from warehouse.ledger.ledger import Ledger\nfrom warehouse.errors import StoreError\n"
    assert upward_imports("warehouse.store.folder", text) == ["line 1: store imports ledger"]
    assert upward_imports("warehouse.catalog.catalog", text) == []


@pytest.mark.parametrize(
    "folder",
    sorted(
        folder
        for room in ROOMS
        for folder in [ROOT / room, *(ROOT / room).rglob("*")]
        if folder.is_dir() and folder.name not in FACES
    ),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_folder_has_at_most_twenty_entries(folder: Path):
    assert len([e for e in folder.iterdir() if e.name not in FACES]) <= MOST_ENTRIES


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_name_stands_twice_in_a_room(room: str):
    names = Counter(
        path.name
        for path in MODULES
        if path.relative_to(ROOT).parts[0] == room and path.name not in ("__init__.py", "config.py")
    )
    names.update(path.name for path in (ROOT / room).rglob("*.sql"))
    assert [name for name, count in names.items() if count > 1] == []


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
        "import sys, pipeline.cli, pipeline.commands.nights, warehouse.catalog.catalog\n"
        "heavy = {'torch', 'vllm', 'apache_beam', 'transformers', 'matplotlib', 'scipy'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
