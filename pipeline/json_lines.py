"""The lines of a .jsonl file, plain or gzipped; not here: what a line holds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError


def json_lines(path: Path, consequence: str = "") -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line of a .jsonl or .jsonl.gz that is not blank.

    Raises ConfigError for a file that is not there, cut off or damaged; it ends in `consequence`.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}{consequence}") from error
