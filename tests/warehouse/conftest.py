"""Fixtures of the warehouse tests: a small warehouse built once, and copies of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.warehouse.builder import small_warehouse


@pytest.fixture(scope="session")
def shared_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse of `small_warehouse`; tests only read it."""
    return small_warehouse(tmp_path_factory.mktemp("shared") / "warehouse")


@pytest.fixture
def warehouse(shared_warehouse: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(shared_warehouse, tmp_path / "warehouse"))
