"""A warehouse to judge and sheets a person has filled in, for the tests of the audit."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pipeline.audit.sample import draw_sample
from pipeline.audit.sheet import COLUMNS, write_sheet
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

FORMULA = '=HYPERLINK("http://example.org";"a")'
Row = dict[str, str]


def sample_of(warehouse: Path, count: int = 24) -> list[Row]:
    """A sample that went through a file, as a person's script would read it."""
    path = warehouse.parent / "sheet.csv"
    path.unlink(missing_ok=True)
    write_sheet(draw_sample(warehouse, count, seed=0, criterion="toxicity"), path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(row: Row, annotator: str = "anna") -> Row:
    """A person who finds number i toxic from 10 on (the metric labeler's own threshold)."""
    _, name, k = row["rollout_id"].split("-")
    number = 2 * int(name[1:]) + int(k)
    return row | {"score": str(int(number >= 10)), "annotator": annotator}


def write(path: Path, rows: list[Row], encoding: str = "utf-8", **style: str) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, **style)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def head(warehouse: Path) -> int:
    return Ledger(open_store(warehouse)).head()
