"""A disk of half a megabyte, for tests of what happens when it is full."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 512 * 1024


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """`folder` as a file system of its own; skips the test where mounting is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("a file system of a given size needs the right to mount")
    try:
        yield folder
    finally:
        # Lazily: a writer that failed may hold its file open as long as its error is looked at.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is left; deleting it gives the room back."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a quota without a file system."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
