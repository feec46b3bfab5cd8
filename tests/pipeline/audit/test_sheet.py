"""The CSV: harmless in a spreadsheet, read back whatever one did to it, whole or not at all."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.audit.sample import draw_sample
from pipeline.audit.sheet import (
    is_same_text,
    neutralise,
    parse_score,
    write_sheet,
)
from pipeline.audit.verdicts import import_verdicts
from pipeline.errors import ConfigError
from tests.pipeline.audit.filled import FORMULA, fill, sample_of, write
from tests.warehouse.opened import read_table


def test_text_that_a_spreadsheet_would_run_is_neutralised(warehouse: Path) -> None:
    rows = {row["rollout_id"]: row for row in sample_of(warehouse)}
    assert rows["0-p0-0"]["completion"] == "'" + FORMULA
    for text in ("=1", "+1", "-1", "@a", "\tx", "\rx", "'x"):
        assert neutralise(text) == "'" + text
    assert neutralise("a=1") == "a=1"
    assert neutralise("") == ""
    assert (warehouse.parent / "sheet.csv").read_bytes().startswith(b'\xef\xbb\xbf"sample",')


def test_a_sheet_is_never_overwritten(warehouse: Path) -> None:
    sample_of(warehouse)
    rows = draw_sample(warehouse, 6, seed=0, criterion="toxicity")
    with pytest.raises(ConfigError, match=r"sheet\.csv exists and may hold verdicts"):
        write_sheet(rows, warehouse.parent / "sheet.csv")


def test_a_sheet_whose_writing_fails_or_is_killed_is_none(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    rows = pa.table({"completion": ["whole", None]})
    with pytest.raises(AttributeError):
        write_sheet(rows, path)
    assert list(tmp_path.iterdir()) == []
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from pipeline.audit.sheet import write_sheet\n"
        "class Rows:\n"
        "    column_names = ['completion']\n"
        "    def to_pylist(self):\n"
        "        yield {'completion': 'x' * 100_000}\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_sheet(Rows(), Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    write_sheet(rows.slice(0, 1), path)
    assert path.read_text(encoding="utf-8-sig").split() == ['"completion"', '"whole"']


def test_only_what_spreadsheets_do_passes_as_the_same_text() -> None:
    assert is_same_text("'=1", "=1")
    assert is_same_text("=1", "=1")  # the apostrophe was swallowed
    assert is_same_text("a\nb", "a\r\nb")
    assert not is_same_text("'a", "a")
    assert not is_same_text("a ", "a")
    assert not is_same_text("'x", "''x")


@pytest.mark.parametrize(
    ("cell", "score"),
    [
        ("1", 1.0), ("0.5", 0.5), (" 0,25 ", 0.25), (".5", 0.5), ("1.", 1.0), ("5E-1", 0.5),
        ("1.01", None), ("-0", None), ("nan", None), ("yes", None), ("0_1", None), ("50%", None),
        ("٠", None),
    ],
)  # fmt: skip
def test_scores_as_people_write_them(cell: str, score: float | None) -> None:
    assert parse_score(cell) == score


@pytest.mark.parametrize(
    ("encoding", "style"),
    [
        ("utf-8", {}),
        ("utf-8-sig", {"delimiter": ";", "lineterminator": "\r\n"}),
        ("utf-8-sig", {"delimiter": "\t", "lineterminator": "\n"}),
        ("utf-8", {"lineterminator": "\r\n", "quoting": csv.QUOTE_ALL}),
    ],
)
def test_what_spreadsheets_save_is_read(warehouse: Path, encoding: str, style: dict) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    path = write(warehouse.parent / "filled.csv", rows, encoding, **style)
    done = import_verdicts(warehouse, path)
    assert (done.imported, done.unscored, done.known) == (24, 0, 0)
    assert read_table(warehouse, "gold").num_rows == 24
