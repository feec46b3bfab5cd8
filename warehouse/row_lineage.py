"""Lineage of single things: a rollout, a label, a file, and a policy back to what trained it.

The answers have the form of those in lineage.py: sections in reading order. Not here: the numbers
of a round (lineage.py), the revision of a folder of weights (training), printing (pipeline).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.ledger import LiveFile
from warehouse.lineage import Lineage, NotFound, Row, Trace, commit_row
from warehouse.schemas import TABLES

_TOKENS = "prompt_ids, completion_ids, behavior_logprobs"


def trace_rollout(lineage: Lineage, rollout_id: str) -> Trace:
    """A rollout: prompt, sampling, the files and commits of its rows, labels, rewards, training."""
    query = f"select * exclude ({_TOKENS}) from rollouts where rollout_id = $id"
    (row,) = lineage.ask(query, id=rollout_id) or [None]
    if row is None:
        raise NotFound(f"{lineage.root}: no rollout {rollout_id}")
    rounds = [row["round"]]
    prompt = "select * from prompts where prompt_id = $id"
    labels = _placed(lineage, "labels", rounds, lineage.ask(_LABELS_OF, id=rollout_id), "label_id")
    return {
        "rollout": row,
        "lies in": lineage.file_rows(
            lineage.files_with("rollouts", rounds, "rollout_id", [rollout_id])
        ),
        "prompt": (lineage.ask(prompt, id=row["prompt_id"]) or [{"prompt_id": row["prompt_id"]}])[0],
        "policy": lineage.policy_row(row["policy_revision"]),
        "labels": labels,
        "rewards": lineage.ask(_REWARDS_OF, id=rollout_id),
        "trained": lineage.ask("from training_rows where rollout_id = $id", id=rollout_id),
        "pairs": lineage.ask(_PAIRS_OF, id=rollout_id),
        "gold": lineage.ask("from gold where rollout_id = $id order by annotator", id=rollout_id),
    }


def trace_label(lineage: Lineage, label_id: str) -> Trace:
    """A label: how it was made, where it lies, which rewards use it, what came before and after."""
    (row,) = lineage.ask("from labels where label_id = $id", id=label_id) or [None]
    if row is None:
        raise NotFound(f"{lineage.root}: no label {label_id}")
    key = row["label_key"]
    return {
        "label": {name: value for name, value in row.items() if value is not None},
        "lies in": lineage.file_rows(
            lineage.files_with("labels", [row["round"]], "label_id", [label_id])
        ),
        "template": lineage.ask(
            "from templates where template_sha256 = $id", id=row["template_sha256"] or ""
        ),
        "attempts": lineage.ask(_ATTEMPTS, key=key),
        "rewards": lineage.ask(_REWARDS_WITH, id=label_id),
        "trained": lineage.ask(
            "from training_rows where list_contains(label_ids, $id)", id=label_id
        ),
        "rollout": {"rollout_id": row["rollout_id"], "prompt_id": row["prompt_id"]},
    }


def trace_file(lineage: Lineage, path: str) -> Trace:
    """A file of the warehouse: the commit that added it, the one that removed it, its rows."""
    added = [(c, f) for c in lineage.commits for f in c.add if f.path == path]
    if not added:
        raise NotFound(
            f"{lineage.root}: the ledger knows no file {path}; paths are those of the view files, "
            "such as labels/round=0/….parquet"
        )
    commit, file = added[0]
    removed = [c for c in lineage.commits if path in c.remove]
    is_live = any(f.path == path for f in lineage.ledger.files(lineage.version, file.table))
    about: Row = vars(file) | {"is_live": is_live}
    trace: Trace = {"file": about, "added by": commit_row(commit)}
    if removed:
        trace["removed by"] = commit_row(removed[0])
    if lineage.store.exists(path):
        trace["rows"] = _keys(lineage, file)
    return trace


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
            "training": commit_row(training),
            "ancestors": _ancestors(lineage, revision),
            "config": _config_of_run(lineage, run),
            "read": lineage.file_rows(_read_by(lineage, training.version, training.meta, rows)),
            "left out": _reasons(rows),
            "rows": [row for row in rows if row["is_used"]],
        }
    return trace | {"sampled": sampled, "measured": measured}


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
    files = then.files_with("rollouts", None, "rollout_id", wanted)
    found = then.rollouts(wanted)
    missing = sorted(set(wanted) - {row["rollout_id"] for row in found})
    trace: Trace = {
        "policy": {"policy_revision": revision, "made_by": record.get("method")},
        "training": {name: value for name, value in record.items() if name != "config"},
        "config": dict(record.get("config", {})),
        "base": lineage.policy_row(str(record["policy_revision_in"])),
        "read": then.file_rows(files),
        "rows": found,
    }
    if missing:
        trace["not in this warehouse"] = [{"rollout_id": rollout_id} for rollout_id in missing]
    return trace


def _placed(
    lineage: Lineage, table: str, rounds: Sequence[int | None], rows: list[Row], key: str
) -> list[Row]:
    """The rows with the version and the file that each lies in."""
    wanted = [row[key] for row in rows]
    place: dict[str, LiveFile] = {}
    for file in lineage.files_with(table, rounds, key, wanted):
        columns = pq.read_table(lineage.store.open(file.path, file.bytes), columns=[key])
        place |= dict.fromkeys(set(wanted) & set(columns[key].to_pylist()), file)
    return [
        row | {"version": lineage.writer(file).version, "path": file.path}
        if (file := place.get(row[key]))
        else row
        for row in rows
    ]


def _keys(lineage: Lineage, file: LiveFile) -> list[Row]:
    """The keys of the file's rows, in its order."""
    columns = list(TABLES[file.table].key)
    rows: pa.Table = pq.read_table(lineage.store.open(file.path, file.bytes), columns=columns)
    found: list[Row] = rows.to_pylist()
    return found


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


_LABELS_OF = """
select
    label_id, labeler, revision, role, criterion, status, score, is_final, attempt, supersedes,
    model, model_revision, template, template_sha256, code_version, labeled_at
from labels
where rollout_id = $id or partner_rollout_id = $id
order by labeler, revision, attempt
"""
_REWARDS_OF = """
select recipe, recipe_sha256, is_eligible, excluded_reason, reward, label_ids
from rewards
where rollout_id = $id
order by recipe, recipe_sha256
"""
_REWARDS_WITH = """
select rollout_id, recipe, recipe_sha256, round, reward
from rewards
where list_contains(label_ids, $id)
"""
_PAIRS_OF = """
select recipe, round, chosen_id, rejected_id, margin
from preference_pairs
where chosen_id = $id or rejected_id = $id
order by all
"""
_ATTEMPTS = """
select label_id, attempt, is_final, status, score, labeled_at
from labels
where label_key = $key
order by attempt
"""
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
