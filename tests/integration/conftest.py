"""One undisturbed small night for the whole session, and the starters it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.integration import nights


@pytest.fixture(scope="session")
def starters() -> Path:
    """The small starters, built once into the user's cache: a minute, on both cores.

    In a process of its own, because the tests' processes compute on one thread each.
    """
    script = (
        "from training.starters.starters import starter_path\n"
        "print(starter_path('starter-policy', budget='small').parent)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def warehouse(starters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse after two undisturbed rounds; tests only read it. Workers share one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "night"
    with FileLock(f"{folder}.lock"):
        root = folder / "warehouse"
        if not (folder / "stderr.txt").exists():
            folder.mkdir(exist_ok=True)
            # A real process: what it prints is looked at, down to what its packages say.
            done = subprocess.run(
                nights.command(root),
                capture_output=True,
                text=True,
                check=False,
                env=nights.environment(),
            )
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            (folder / "stdout.txt").write_text(done.stdout)
            (folder / "stderr.txt").write_text(done.stderr)
    return root
