"""What holds for every audit question; what each finds is in test_audit_labels and _rounds."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from tests.warehouse.sql import test_audit_labels, test_audit_rounds
from tests.warehouse.sql.audit_builder import ask
from warehouse.catalog.catalog import query_names

NAMES = sorted(path.stem for path in Path(str(files("warehouse") / "sql" / "audit")).rglob("*.sql"))


@pytest.mark.parametrize("name", NAMES)
def test_every_question_has_a_test_of_its_own(name: str) -> None:
    tests = [*vars(test_audit_labels), *vars(test_audit_rounds)]
    assert [test for test in tests if test.startswith(f"test_{name}_")] != []


@pytest.mark.parametrize("name", NAMES)
def test_every_question_says_what_a_row_is_and_why(name: str) -> None:
    grain = query_names()[name]
    assert grain.startswith("one row per ")
    assert ": " in grain


@pytest.mark.parametrize("name", NAMES)
def test_every_question_has_no_answer_in_an_empty_warehouse(name: str, tmp_path: Path) -> None:
    assert ask(tmp_path, name) == []
