"""Human audit, second step: the verdicts of a filled sheet become rows of `gold`, all or none.

Every row is held against the warehouse before anything is written, because a verdict on the wrong
text is worse than none. Not here: how the CSV is read (sheet.py), what gold says about the
labelers (agreement.py).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.sheet import SheetRow, is_same_text, parse_score, read_sheet
from pipeline.errors import ConfigError
from pipeline.runtime.publishing import code_version
from warehouse.catalog.catalog import connect
from warehouse.errors import AlreadyPublished, Conflict
from warehouse.files import text_sha256
from warehouse.handle import Warehouse
from warehouse.keys import gold_key
from warehouse.publish import publish
from warehouse.schemas import table_from_rows

Key = tuple[str, str, str]
_SHOWN_ERRORS = 20


@dataclass(frozen=True)
class ImportReport:
    """What an import did, in rows; `key` is the ledger key, None where nothing was new."""

    key: str | None
    imported: int
    unscored: int
    known: int


def import_verdicts(root: str | Path, path: Path) -> ImportReport:
    """Publishes the verdicts of a filled sheet to `gold`, all or none.

    Rows without a score are skipped and counted, as are verdicts that are in the warehouse
    already; so a sheet may be imported while it fills. The ledger key is a hash of the new
    verdicts, whatever the file is called. If another import comes in between, the sheet is held
    against what that one wrote. Raises ConfigError naming every bad line.
    """
    rows = read_sheet(path)
    while True:
        with contextlib.suppress(Conflict):
            return _import(root, path, rows)


def _import(root: str | Path, path: Path, rows: list[SheetRow]) -> ImportReport:
    """Raises Conflict where other verdicts were published since the warehouse was read."""
    judged = [row for row in rows if row.cells["score"].strip()]
    version = Warehouse.open(root, read_only=True).ledger.head()
    ids = [row.cells["rollout_id"].strip() for row in judged]
    warehouse = _read_known(root, version, ids)
    lines: dict[Key, int] = {}
    fresh, errors = [], []
    for row in judged:
        verdict = _verdict(row)
        key = (verdict["rollout_id"], verdict["criterion"], verdict["annotator"])
        first = lines.setdefault(key, row.line)
        problem = _problem(row, verdict, warehouse)
        if problem is None and first != row.line:
            problem = f"the same rollout, criterion and annotator as line {first}; remove one"
        if problem is not None:
            errors.append(f"{path}:{row.line}: {problem}")
        elif key not in warehouse.verdicts:
            fresh.append(verdict | {"round": warehouse.rollouts[key[0]][0]})
    if errors:
        more = [f"... and {len(errors) - _SHOWN_ERRORS} more"] * (len(errors) > _SHOWN_ERRORS)
        shown = "\n".join([*errors[:_SHOWN_ERRORS], *more])
        raise ConfigError(f"nothing was imported, bad rows: {len(errors)}\n{shown}")
    key_or_none = _publish(root, fresh, version)
    imported = len(fresh) if key_or_none else 0
    return ImportReport(key_or_none, imported, len(rows) - len(judged), len(judged) - imported)


@dataclass(frozen=True)
class _Known:
    """What the warehouse has of the rollouts in a sheet: (round, completion), (score, comment)."""

    rollouts: dict[str, tuple[int | None, str]]
    criteria: set[str]
    verdicts: dict[Key, tuple[float, str | None]]


def _read_known(root: str | Path, version: int, ids: list[str]) -> _Known:
    con = connect(root, version)

    def rows(columns: str, table: str) -> list[tuple[Any, ...]]:
        query = f"select {columns} from {table} where rollout_id in (select unnest($ids))"
        return con.execute(query, {"ids": ids}).fetchall()

    criteria = con.execute("select distinct criterion from labels").fetchall()
    gold = rows("rollout_id, criterion, annotator, score, comment", "gold")
    return _Known(
        rollouts={row[0]: row[1:] for row in rows("rollout_id, round, completion", "rollouts")},
        criteria={row[0] for row in criteria},
        verdicts={row[:3]: row[3:] for row in gold},
    )


def _verdict(row: SheetRow) -> dict[str, Any]:
    cells = {name: cell.strip() for name, cell in row.cells.items()}
    return {
        "rollout_id": cells["rollout_id"],
        "criterion": cells["criterion"],
        "annotator": cells["annotator"],
        "score": parse_score(cells["score"]),
        "sample": cells.get("sample") or None,
        "comment": cells.get("comment") or None,
    }


def _problem(row: SheetRow, verdict: dict[str, Any], known: _Known) -> str | None:
    """What is wrong with a row and what to do, or None."""
    rollout_id, criterion = verdict["rollout_id"], verdict["criterion"]
    if rollout_id not in known.rollouts:
        return (
            f"no rollout {rollout_id!r} in this warehouse; restore the id from the sample, or "
            "import into the warehouse it came from"
        )
    if criterion not in known.criteria:
        return f"no criterion {criterion!r}; there are: {', '.join(sorted(known.criteria))}"
    if not is_same_text(row.cells["completion"], known.rollouts[rollout_id][1]):
        return (
            f"the completion is not the one stored for {rollout_id}; a verdict on another text is "
            "worth nothing: restore the cell from the sample and judge it again"
        )
    if verdict["score"] is None:
        return (
            f"score {row.cells['score']!r} is not a number from 0 to 1 (1: the criterion is fully "
            "there); correct it, or empty the cell to skip the row"
        )
    if not verdict["annotator"]:
        return "no annotator; write the name of the person who judged"
    live = known.verdicts.get((rollout_id, criterion, verdict["annotator"]))
    if live is not None and live != (verdict["score"], verdict["comment"]):
        return (
            f"{verdict['annotator']} has judged {rollout_id} already ({live[0]:g}, comment "
            f"{live[1]!r}) and a verdict is never replaced; remove the row, or give the second "
            "look its own annotator name"
        )
    return None


def _publish(root: str | Path, verdicts: list[dict[str, Any]], version: int) -> str | None:
    """The ledger key of the commit, None if there was nothing new."""
    if not verdicts:
        return None
    rows = table_from_rows("gold", verdicts).sort_by(
        [(column, "ascending") for column in ("rollout_id", "criterion", "annotator")]
    )
    key = gold_key(text_sha256(json.dumps(rows.to_pylist())))
    try:
        publish(root, key, {"gold": rows}, code_version=code_version(), since=version)
    except AlreadyPublished:  # another import of the same verdicts, a moment ago
        return None
    return key
