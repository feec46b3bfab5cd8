"""Lines of .jsonl files, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.ingest.files import json_lines


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_blank_lines_are_counted_and_left_out(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = b'{"a": 1}\n\n  \n{"a": "\xff"}'
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(json_lines(path)) == [(1, b'{"a": 1}\n'), (4, b'{"a": "\xff"}')]


def damaged(data: bytes, kind: str) -> bytes:
    if kind == "cut off":
        return data[:-40]
    middle = len(data) // 2
    return data[:middle] + bytes(64) + data[middle + 64 :]


@pytest.mark.parametrize("kind", ["cut off", "overwritten", "no gzip", "not there"])
def test_a_file_that_cannot_be_read_is_named_with_what_follows(tmp_path: Path, kind: str) -> None:
    rng = random.Random(0)
    lines = b"".join(b'{"text": "%d"}\n' % rng.getrandbits(64) for _ in range(2000))
    path = tmp_path / "a.jsonl.gz"
    if kind == "no gzip":
        path.write_bytes(lines)
    elif kind != "not there":
        path.write_bytes(damaged(gzip.compress(lines), kind))
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: cannot be read: .*; nothing is done"):
        list(json_lines(path, "; nothing is done"))
