"""Lineage of a policy: the training that made it and, back from it, the rows that trained it.

Not here: the form of an answer (trace.py), the revision of a folder of weights (training).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from warehouse.ledger.commits import LiveFile
from warehouse.lineage.trace import Lineage, NotFound, Row, Trace, commit_row

# Where a warehouse keeps models, and the files in which a trained one says how it was made.
_FOLDERS = ("policies", "reward-models")
_RECORD, _ROWS = "training.json", "training_rows.json"


def known_revision(lineage: Lineage, start: str) -> str:
    """The one policy whose revision begins like this. Raises NotFound for none and for several."""
    known = {row["policy_revision"] for row in lineage.ask("from policy_lineage")}
    known |= {c.meta["policy_revision"] for c in lineage.commits if "policy_revision" in c.meta}
    for folder in _FOLDERS:
        kept = lineage.store.list(f"{folder}/{start}")
        known |= {key.split("/")[1] for key in kept if key.endswith(f"/{_RECORD}")}
    found = sorted(revision for revision in known if revision.startswith(start))
    if len(found) != 1:
        what = "no policy or folder" if not found else f"{len(found)} policies begin with"
        raise NotFound(f"{lineage.root}: {what} {start}; policies: {', '.join(sorted(known))}")
    return found[0]


def stored_record(lineage: Lineage, revision: str) -> tuple[Row, dict[str, list[str]]] | None:
    """What a model that the warehouse keeps, made by no night, says of itself, and its rows' ids.

    None where there is no such model, or a night made it.
    """
    for folder in _FOLDERS:
        place = f"{folder}/{revision}"
        if lineage.store.exists(f"{place}/{_RECORD}"):
            record = json.loads(lineage.store.get(f"{place}/{_RECORD}"))
            has_rows = lineage.store.exists(f"{place}/{_ROWS}")
            return record, json.loads(lineage.store.get(f"{place}/{_ROWS}")) if has_rows else {}
    return None


def trace_policy(lineage: Lineage, revision: str) -> Trace:
    """A policy that a night trained: the training, the files it read, the rows that trained it.

    Raises NotFound for a revision that neither a training nor a rollout of this warehouse has.
    """
    training = lineage.training_of(revision)
    sampled = lineage.ask(_SAMPLED, revision=revision)
    measured = lineage.ask(_MEASURED, revision=revision)
    if training is None and not sampled and not measured:
        raise NotFound(
            f"{lineage.root}: no policy {revision}: no training made it and no rollout is its own"
        )
    trace: Trace = {"policy": lineage.policy_row(revision)}
    if training is not None:
        run = training.meta["training_run_id"]
        rows = lineage.ask("from training_rows where training_run_id = $run", run=run)
        trace |= {
            "training": lineage.ask("from trainings where training_run_id = $run", run=run)[0],
            "written by": commit_row(training),
            "ancestors": _ancestors(lineage, revision),
            "read": lineage.file_rows(_read_by(lineage, training.version, training.meta, rows)),
            "left out": _reasons(rows),
            "rows": [{name: row[name] for name in _SHOWN} for row in rows if row["is_used"]],
        }
    trace |= {"sampled": sampled, "measured": measured}
    if training is not None:
        trace["config"] = _config_of_run(lineage, training.meta["training_run_id"])
    return trace


def trace_record(
    lineage: Lineage, revision: str, record: Mapping[str, Any], ids: Mapping[str, Sequence[str]]
) -> Trace:
    """A model trained outside the nights, by its folder's own record and the `ids` of its rows.

    `ids`: columns of rollout ids in parallel (rollout_id, or chosen_id and rejected_id).
    """
    wanted = sorted({rollout_id for column in ids.values() for rollout_id in column})
    made_from = record.get("made_from", {})
    version = int(made_from.get("warehouse_version", lineage.version))
    then = lineage.at(version)
    files = then.files_with("rollouts", record.get("rounds") or None, "rollout_id", wanted)
    found = then.rollouts(wanted)
    missing = sorted(set(wanted) - {row["rollout_id"] for row in found})
    trace: Trace = {
        "policy": {"policy_revision": revision, "made_by": record.get("method")},
        "training": {name: value for name, value in record.items() if name != "config"},
        "base": lineage.policy_row(str(record["policy_revision_in"])),
        "read": then.file_rows(files),
        "rows": found,
    }
    if missing:
        trace["not in this warehouse"] = [{"rollout_id": rollout_id} for rollout_id in missing]
    return trace | {"config": dict(record.get("config", {}))}


def _ancestors(lineage: Lineage, revision: str) -> list[Row]:
    """The policies before this one, the parent first, back to a base policy."""
    parents = {
        row["policy_revision"]: row["policy_revision_in"]
        for row in lineage.ask("from policy_lineage")
    }
    found: list[Row] = []
    parent = parents.get(revision)
    while parent is not None and all(parent != row["policy_revision"] for row in found):
        found.append(lineage.policy_row(parent))
        parent = parents.get(parent)
    return found


def _config_of_run(lineage: Lineage, run: str) -> Row:
    rows = lineage.ask(
        "select config, config_sha256, seed, code_version from rounds where training_run_id = $run",
        run=run,
    )
    if not rows:
        return {"config": "not stored: its policy has not been evaluated yet"}
    return rows[0] | {"config": json.loads(rows[0]["config"])}


def _read_by(
    lineage: Lineage, version: int, meta: Mapping[str, str], rows: Sequence[Row]
) -> list[LiveFile]:
    """The files of rollouts and rewards that a training read, at the version it says it read."""
    then = lineage.at(int(meta.get("warehouse_version", version - 1)))
    used = {row["rollout_id"] for row in rows if row["is_used"]}
    rounds = sorted({row["source_round"] for row in rows if row["source_round"] is not None})
    return [
        file
        for table in ("rollouts", "rewards")
        for file in then.files_with(table, rounds, "rollout_id", used)
    ]


def _reasons(rows: Sequence[Row]) -> list[Row]:
    counts = Counter(row["excluded_reason"] for row in rows if not row["is_used"])
    return [{"excluded_reason": reason, "rows": n} for reason, n in counts.most_common()]


# What differs from row to row; the rest stands in `training`.
_SHOWN = (
    *("rollout_id", "source_round", "reward", "importance_weight", "advantage_mean", "epochs"),
    *("sampled_by", "seed", "label_ids"),
)
_SAMPLED = """
select round, purpose, count(*) as rollouts
from rollouts
where policy_revision = $revision
group by all
order by all
"""
_MEASURED = """
select round, metric, labeler, value, low, high
from evaluations
where policy_revision = $revision
order by all
"""
