"""What replaying makes of tables: which labels failed, and the old rows beside the new attempts.

Pure functions on tables. Not here: when and where it happens (replay.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from labeling.label import label_id
from warehouse.schemas import conform

Row = dict[str, object]


def failed_labels(labels: pa.Table, statuses: Sequence[str]) -> pa.Table:
    """The final labels that have one of these statuses."""
    has_failed = pc.field("status").isin(pa.array(statuses, pa.string()))
    return labels.filter(pc.field("is_final") & has_failed)


def with_new_attempts(
    old: pa.Table, fresh: pa.Table, failed: pa.Table, unlabelled: Collection[str]
) -> pa.Table:
    """All rows of `old`, and those of `fresh` about a failed label or an unlabelled rollout.

    A label that is there again goes on counting its attempts and its new final row is the only one;
    `supersedes` of the first call behind it names the final row that was. The rest of `fresh` is
    left out: what has succeeded stands.
    """
    keys = set(failed["label_key"].to_pylist())
    rows = [
        row
        for row in fresh.to_pylist()
        if row["label_key"] in keys or row["rollout_id"] in unlabelled
    ]
    again = {str(row["label_key"]) for row in rows}
    before = old.filter(pc.field("label_key").isin(pa.array(sorted(again), pa.string())))
    attempts: dict[str, int] = {}
    finals: dict[str, str] = {}
    for row in before.select(["label_key", "label_id", "attempt", "is_final"]).to_pylist():
        key = row["label_key"]
        attempts[key] = max(attempts.get(key, 0), row["attempt"] + 1)
        if row["is_final"]:
            finals[key] = row["label_id"]
    for key in again & set(finals):
        _continue([r for r in rows if r["label_key"] == key], key, attempts[key], finals[key])
    replaced = pc.is_in(old["label_key"], pa.array(sorted(again), pa.string()))
    place = old.schema.get_field_index("is_final")
    is_final = pc.and_(old["is_final"], pc.invert(replaced))
    kept = old.set_column(place, old.schema.field(place), is_final)
    return conform("labels", pa.concat_tables([kept, pa.Table.from_pylist(rows, fresh.schema)]))


def _continue(rows: list[Row], key: str, first_attempt: int, replaced: str) -> None:
    """Numbers one label's new rows behind its old ones, in place."""
    number = {row["label_id"]: int(str(row["attempt"])) + first_attempt for row in rows}
    names = {old: label_id(key, attempt) for old, attempt in number.items()}
    by_id = {row["label_id"]: row for row in rows}
    first = next(row for row in rows if row["is_final"])
    while first["supersedes"] is not None:  # a repair: the call that it repaired
        first = by_id[first["supersedes"]]
    for row in rows:
        row["attempt"] = number[row["label_id"]]
        if row["supersedes"] is not None:
            row["supersedes"] = names[row["supersedes"]]
    first["supersedes"] = replaced
    for row in rows:
        row["label_id"] = names[row["label_id"]]
