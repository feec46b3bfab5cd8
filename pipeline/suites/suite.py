"""An evaluation suite: a CSV of text, expected and slices, read whole and checked before any work.

A suite is an instrument, so unlike a file of texts it is refused when a row is bad: the error names
file, line and column of the first ones. Not here: names of public suites' columns
(formats.py), what a labeler or policy makes of it (labeler.py, policy.py).
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ConfigError
from pipeline.suites.formats import SuiteFormat
from warehouse.errors import RoundhouseError

_SHOWN = 5
T = TypeVar("T")


@dataclass(frozen=True)
class SuiteRow:
    """One case. `line` is the file's, `slices` are (column, value), `groups` those it speaks of."""

    line: int
    text: str
    expected: int | None
    prompt: str | None
    slices: tuple[tuple[str, str], ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """The rows of a file, and the hash of the file."""

    path: Path
    sha256: str
    rows: tuple[SuiteRow, ...]

    @property
    def slices(self) -> dict[tuple[str, str], list[int]]:
        """(column, value) -> places of its rows, in the order of the file."""
        return _places(row.slices for row in self.rows)

    @property
    def groups(self) -> dict[str, list[int]]:
        """Identity group -> places of its rows, groups sorted."""
        return dict(sorted(_places(row.groups for row in self.rows).items()))


def _places(values: Iterable[Iterable[T]]) -> dict[T, list[int]]:
    places: dict[T, list[int]] = {}
    for place, of_row in enumerate(values):
        for value in of_row:
            places.setdefault(value, []).append(place)
    return places


class _BadCell(RoundhouseError, ValueError):
    """A cell that cannot be read; names its column."""


def read_suite(path: Path, form: SuiteFormat, *, needs_expected: bool = True) -> Suite:
    """The suite in a CSV file (UTF-8, a header line). Raises ConfigError naming line and column."""
    if not path.is_file():
        raise ConfigError(f"suite {path}: no such file")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"suite {path}:{line}: not valid UTF-8; save the file as UTF-8") from None
    rows, faults = _rows(path, text, form, needs_expected)
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ConfigError("suite " + "\n  ".join(faults[:_SHOWN]) + more)
    if not rows:
        raise ConfigError(f"suite {path}: it has no rows")
    return Suite(path, hashlib.sha256(content).hexdigest(), tuple(rows))


def _rows(
    path: Path, text: str, form: SuiteFormat, needs_expected: bool
) -> tuple[list[SuiteRow], list[str]]:
    """The rows that can be read, and the faults of the others."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[SuiteRow] = []
    faults: list[str] = []
    try:
        header = next(reader, [])
        parse = _parser(path, header, form, needs_expected)
        line = reader.line_num + 1  # a quoted cell may span lines: a row is named by its first
        for cells in reader:
            try:
                if cells:
                    rows.append(parse(line, cells))
            except _BadCell as error:
                faults.append(f"{path}:{line}: {error}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"suite {path}:{reader.line_num}: not valid CSV: {error}") from error
    return rows, faults


def _parser(
    path: Path, header: Sequence[str], form: SuiteFormat, needs_expected: bool
) -> Callable[[int, Sequence[str]], SuiteRow]:
    """How this file's rows are read. Raises ConfigError when a column is missing."""
    # All that were asked for; of the default ones those that are there.
    slices = [name for name in form.slices if form.is_named or name in header]
    needed = [form.text, *slices, *form.identity_columns]
    if needs_expected:
        needed.append(form.expected)
    missing = [name for name in needed if name not in header]
    if missing or len(set(header)) < len(header):
        wrong = f"no column {', '.join(missing)}" if missing else "a column stands twice"
        raise ConfigError(
            f"suite {path}:1: {wrong}; it has {list(header)}. Name the columns (--text-column, "
            "--expected-column, --slice-column) or a known format (--like)"
        )
    prompt = form.prompt if form.prompt in header and form.prompt != form.text else None
    terms = {t: re.compile(rf"\b{re.escape(t)}\b", re.IGNORECASE) for t in form.identity_terms}

    def parse(line: int, cells: Sequence[str]) -> SuiteRow:
        if len(cells) != len(header):
            raise _BadCell(f"{len(cells)} cells where the header has {len(header)} columns")
        row = dict(zip(header, cells, strict=True))
        text = _filled(row, form.text)
        groups = {value for name in form.identity_columns for value in _values(row[name])}
        groups |= {term for term, pattern in terms.items() if pattern.search(text)}
        return SuiteRow(
            line,
            text,
            _expected(row, form, needs_expected),
            _filled(row, prompt) if prompt else None,
            tuple((name, value) for name in slices for value in _values(row[name])),
            tuple(sorted(groups)),
        )

    return parse


def _values(cell: str) -> list[str]:
    return sorted({part.strip() for part in cell.split(";")} - {""})


def _filled(row: Mapping[str, str], name: str) -> str:
    if not row[name].strip():
        raise _BadCell(f"column {name}: is empty")
    return row[name]


def _expected(row: Mapping[str, str], form: SuiteFormat, is_needed: bool) -> int | None:
    if not is_needed and form.expected not in row:
        return None
    word = row[form.expected].strip()
    for value, words in ((1, form.positive), (0, form.negative)):
        if word.casefold() in {known.casefold() for known in words}:
            return value
    raise _BadCell(
        f"column {form.expected}: {word!r} is none of {list(form.positive)} (1) and "
        f"{list(form.negative)} (0); give --positive and --negative words"
    )
