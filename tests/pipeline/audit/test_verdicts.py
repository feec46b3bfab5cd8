"""What comes back: all of a sheet or nothing, every bad row named, no verdict twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import verdicts as audit_import
from pipeline.audit.sheet import (
    read_sheet,
)
from pipeline.audit.verdicts import import_verdicts
from pipeline.errors import ConfigError
from tests.pipeline.audit.filled import Row, fill, head, sample_of, write
from tests.warehouse.opened import read_table


def test_a_second_import_changes_nothing(warehouse: Path) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    rows[3]["score"] = " "
    done = import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    assert (done.imported, done.unscored, done.known) == (23, 1, 0)
    assert done.key is not None
    assert done.key.startswith("gold/")
    version = head(warehouse)
    saved_again = write(warehouse.parent / "b.csv", rows[::-1], "utf-8-sig", delimiter=";")
    again = import_verdicts(warehouse, saved_again)
    assert (again.key, again.imported, again.unscored, again.known) == (None, 0, 1, 23)
    assert head(warehouse) == version
    # A sheet may come in while it fills: only what is new is published.
    rows[3] = fill(rows[3])
    more = import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    assert (more.imported, more.unscored, more.known) == (1, 0, 23)
    assert head(warehouse) == version + 1
    assert read_table(warehouse, "gold").num_rows == 24


def test_two_imports_at_once_never_double_a_verdict(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    one = write(warehouse.parent / "a.csv", rows[:16])
    other = write(warehouse.parent / "b.csv", rows[8:])
    plain = audit_import.publish

    def after_the_other(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(audit_import, "publish", plain)
        import_verdicts(warehouse, other)
        return plain(*arguments, **named)

    monkeypatch.setattr(audit_import, "publish", after_the_other)
    done = import_verdicts(warehouse, one)
    assert (done.imported, done.known) == (8, 8)
    assert read_table(warehouse, "gold").num_rows == len(rows) == 24


def test_an_empty_sheet_imports_nothing(warehouse: Path) -> None:
    version = head(warehouse)
    done = import_verdicts(warehouse, write(warehouse.parent / "a.csv", sample_of(warehouse)))
    assert (done.key, done.imported, done.unscored, done.known) == (None, 0, 24, 0)
    assert head(warehouse) == version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_id": "0-p0-77"}, "no rollout '0-p0-77' in this warehouse; restore the id"),
        ({"score": "1.2"}, "score '1.2' is not a number from 0 to 1"),
        ({"score": "5. Jan"}, "score '5. Jan' is not a number from 0 to 1"),
        ({"annotator": " "}, "no annotator; write the name"),
        ({"criterion": "tox"}, "no criterion 'tox'; there are: toxicity"),
        ({"completion": "Another."}, "the completion is not the one stored for"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_nothing_is_imported(
    warehouse: Path, change: Row, message: str
) -> None:
    rows = [fill(row) for row in sample_of(warehouse) if row["rollout_id"] != "0-p0-1"]
    rows = [row for row in rows if row["rollout_id"] != "1-p0-1"]  # the others are one line each
    rows[4] |= change
    path = write(warehouse.parent / "filled.csv", rows)
    version = head(warehouse)
    with pytest.raises(ConfigError) as caught:
        import_verdicts(warehouse, path)
    first, second = str(caught.value).split("\n")
    assert first == "nothing was imported, bad rows: 1"
    assert second.startswith(f"{path}:6: {message}")
    assert head(warehouse) == version


def test_lines_are_those_of_the_file_also_after_cells_of_several_lines(warehouse: Path) -> None:
    rows = {row["rollout_id"]: fill(row) for row in sample_of(warehouse)}
    # The header, four lines of the first row, then line 6.
    sheet = [rows["0-p0-1"], rows["0-p1-0"], rows["0-p1-0"], rows["0-p2-0"] | {"score": "2"}]
    path = write(warehouse.parent / "filled.csv", sheet)
    assert [row.line for row in read_sheet(path)] == [2, 6, 7, 8]
    with pytest.raises(ConfigError) as caught:
        import_verdicts(warehouse, path)
    assert str(caught.value).split("\n")[1:] == [
        f"{path}:7: the same rollout, criterion and annotator as line 6; remove one",
        f"{path}:8: score '2' is not a number from 0 to 1 (1: the criterion is fully there); "
        "correct it, or empty the cell to skip the row",
    ]


def test_a_verdict_is_never_replaced(warehouse: Path) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    row = next(row for row in rows if row["rollout_id"] == "0-p3-0")
    path = write(warehouse.parent / "b.csv", [row | {"score": "1"}])
    with pytest.raises(ConfigError, match=r"b\.csv:2: anna has judged 0-p3-0 already \(0, "):
        import_verdicts(warehouse, path)
    done = import_verdicts(
        warehouse,
        write(warehouse.parent / "c.csv", [row | {"score": "1", "annotator": "anna, later"}]),
    )
    assert done.imported == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b.decode().encode("utf-16"), r":1: byte 0xff is not UTF-8; save .* UTF-8"),
        (lambda b: b.replace("ü".encode(), b"\xfc"), r":\d+: byte 0xfc is not UTF-8"),
        (lambda b: b.replace(b"annotator", b"who", 1), ":1: the header must have annotator once"),
        (lambda b: b[:0], ":1: the header must have rollout_id, criterion, completion, score"),
        (lambda b: b + b'"x', r":\d+: not CSV \(unexpected end of data\)"),
        (lambda b: b + b"a,b\r\n", r":\d+: 2 cells where the header has 8"),
    ],
    ids=["utf-16", "latin-1", "header", "empty", "quote", "cells"],
)
def test_a_damaged_file_is_named_with_its_line(
    warehouse: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = write(warehouse.parent / "a.csv", [fill(row) for row in sample_of(warehouse)])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"a\.csv{message}"):
        import_verdicts(warehouse, path)
    assert read_table(warehouse, "gold").num_rows == 0


def test_a_file_that_is_not_there_is_named(warehouse: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.csv: No such file or directory; name the filled"):
        import_verdicts(warehouse, warehouse.parent / "no.csv")
