"""The sheet a person fills in: a CSV that a spreadsheet can open, save and hand back unharmed.

Written for spreadsheets: UTF-8 with the mark they look for, every cell quoted, and an apostrophe
before text they would run as a formula. Read with what they leave behind: another delimiter,
decimal commas, other line ends. Not here: which rows stand in it and what they must say
(sample.py).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ConfigError
from warehouse.files import whole_file

COLUMNS = (
    "sample", "rollout_id", "criterion", "prompt", "completion", "score", "comment", "annotator",
)  # fmt: skip
_NEEDED = ("rollout_id", "criterion", "completion", "score", "annotator")
# What makes a spreadsheet see a formula (OWASP, "CSV Injection"); the apostrophe itself, so that
# a text which begins with one stays told apart from a neutralised one.
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class SheetRow:
    """One filled row: its cells by column name, stripped of nothing; `line` counts from 1."""

    line: int
    cells: dict[str, str]


def write_sheet(rows: pa.Table, path: Path) -> None:
    """Writes a sample, whole. Raises ConfigError if the file is there: it may hold verdicts."""
    try:
        # The byte order mark is how spreadsheets tell UTF-8 from the code page of the country.
        with (
            whole_file(path, replace=False) as fresh,
            fresh.open("w", encoding="utf-8-sig", newline="") as file,
        ):
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(rows.column_names)
            for row in rows.to_pylist():
                writer.writerow([neutralise(text) for text in row.values()])
    except FileExistsError:
        raise ConfigError(
            f"{path} exists and may hold verdicts; name another file or remove it"
        ) from None


def read_sheet(path: Path) -> list[SheetRow]:
    """The rows of a filled sheet; rows without any text are left out.

    The delimiter is the one of `, ; tab` under which the header has the columns. Raises
    ConfigError naming file, line and what to do.
    """
    text = _decode(path)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = [name.strip().lower() for name in next(reader, [])]
    missing = [name for name in _NEEDED if names.count(name) != 1]
    if missing:
        raise ConfigError(
            f"{path}:1: the header must have {', '.join(missing)} once; start again from the file "
            "that `roundhouse audit sample` wrote, and save it as CSV"
        )
    return list(_rows(path, reader, names))


def _rows(path: Path, reader: Iterator[list[str]], names: list[str]) -> Iterator[SheetRow]:
    # A cell may hold line ends, so a row's line is the one after the last row's.
    line = 1 + reader.line_num  # type: ignore[attr-defined]
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(names):
                    raise ConfigError(
                        f"{path}:{line}: {len(cells)} cells where the header has {len(names)}; "
                        "quote text that holds the delimiter, or save from a spreadsheet"
                    )
                yield SheetRow(line, dict(zip(names, cells, strict=True)))
            line = 1 + reader.line_num  # type: ignore[attr-defined]
    except csv.Error as error:
        raise ConfigError(
            f"{path}:{line}: not CSV ({error}); look for a quote that is not closed"
        ) from error


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name the filled CSV") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8; save the sheet as "
            '"CSV UTF-8"'
        ) from error


def neutralise(text: str) -> str:
    """The text as a spreadsheet shows it and never runs it."""
    return f"'{text}" if text.startswith(_RISKY) else text


def is_same_text(cell: str, stored: str) -> bool:
    """Whether a cell still holds the stored text, whatever a spreadsheet did to it.

    Some drop the apostrophe of `neutralise`, some rewrite line ends; no other change passes.
    """
    stored = _with_plain_ends(stored)
    return _with_plain_ends(cell) in (stored, neutralise(stored))


def _with_plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_score(cell: str) -> float | None:
    """A number in [0, 1], with a decimal point or comma; None if the cell holds none."""
    text = cell.strip()
    if not _NUMBER.fullmatch(text):
        return None
    score = float(text.replace(",", "."))
    return score if 0 <= score <= 1 else None
