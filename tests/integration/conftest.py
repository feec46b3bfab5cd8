"""One undisturbed small night for the whole session, and the starters it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import nights
from training.starter import starter_path


@pytest.fixture(scope="session")
def starters() -> Path:
    """The full starters, built once into the user's cache (two or three minutes)."""
    return starter_path("starter-policy").parent


@pytest.fixture(scope="session")
def warehouse(starters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse after two undisturbed rounds."""
    root = tmp_path_factory.mktemp("night") / "warehouse"
    done = nights.run(root)
    (root.parent / "stdout.txt").write_text(done.stdout)
    (root.parent / "stderr.txt").write_text(done.stderr)
    return root
