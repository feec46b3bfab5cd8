"""Lineage of a rollout, a label and a file: where they lie, what made them, what came of them.

Not here: the form of an answer (trace.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.ledger.commits import LiveFile
from warehouse.lineage.trace import Lineage, NotFound, Row, Trace, brought_by, commit_row, values
from warehouse.schemas import TABLES

_TOKENS = "prompt_ids, completion_ids, behavior_logprobs"


def trace_rollout(lineage: Lineage, rollout_id: str) -> Trace:
    """A rollout: prompt, sampling, the files and commits of its rows, labels, rewards, training."""
    query = f"select * exclude ({_TOKENS}) from rollouts where rollout_id = $id"
    row = _only(lineage, "rollout", rollout_id, query)
    rounds = [row["round"]]
    prompt = lineage.ask("from prompts where prompt_id = $id", id=row["prompt_id"])
    labels = _placed(lineage, "labels", rounds, lineage.ask(_LABELS_OF, id=rollout_id), "label_id")
    return {
        "rollout": row,
        "lies in": lineage.file_rows(
            lineage.files_with("rollouts", rounds, "rollout_id", [rollout_id])
        ),
        "prompt": prompt[0] if prompt else {"prompt_id": row["prompt_id"]},
        "policy": lineage.policy_row(row["policy_revision"]),
        "labels": labels,
        "rewards": lineage.ask(_REWARDS_OF, id=rollout_id),
        "trained": lineage.ask("from training_rows where rollout_id = $id", id=rollout_id),
        "pairs": lineage.ask(_PAIRS_OF, id=rollout_id),
        "gold": lineage.ask("from gold where rollout_id = $id order by annotator", id=rollout_id),
    }


def trace_label(lineage: Lineage, label_id: str) -> Trace:
    """A label: how it was made, where it lies, which rewards use it, what came before and after."""
    row = _only(lineage, "label", label_id, "from labels where label_id = $id")
    rewards = lineage.ask(_REWARDS_WITH, id=label_id, round=row["round"])
    return {
        "label": {name: value for name, value in row.items() if value is not None},
        "lies in": lineage.file_rows(
            lineage.files_with("labels", [row["round"]], "label_id", [label_id])
        ),
        "template": lineage.ask(
            "from templates where template_sha256 = $id", id=row["template_sha256"] or ""
        ),
        "attempts": lineage.ask(_ATTEMPTS, key=row["label_key"]),
        "rewards": rewards,
        "trained": [
            use
            for rollout_id in values(rewards, "rollout_id")
            for use in lineage.ask(
                "from training_rows where rollout_id = $of and list_contains(label_ids, $id)",
                of=rollout_id,
                id=label_id,
            )
        ],
        "rollout": {"rollout_id": row["rollout_id"], "prompt_id": row["prompt_id"]},
    }


def trace_file(lineage: Lineage, path: str) -> Trace:
    """A file of the warehouse: the commits that brought it and took it away, its rows' keys."""
    commits = lineage.ledger.commits()
    added = [(c, f) for c in commits for f in brought_by(c) if f.path == path]
    if not added:
        raise NotFound(
            f"{lineage.root}: the ledger knows no file {path}; paths are those of the view files, "
            "such as labels/round=0/….parquet"
        )
    commit, file = added[0]
    is_live = any(f.path == path for f in lineage.ledger.files(lineage.version, file.table))
    about: Row = vars(file) | {"is_live": is_live}
    trace: Trace = {"file": about, "added by": commit_row(commit)}
    for what, gone in (
        ("removed by", [c for c in commits if path in c.remove]),
        ("replaced by", [c for c in commits if path in c.replace]),
    ):
        if gone:
            trace[what] = commit_row(gone[0])
    if lineage.store.exists(path):
        trace["rows"] = _keys(lineage, file)
    return trace


def _only(lineage: Lineage, what: str, name: str, query: str) -> Row:
    rows = lineage.ask(query, id=name)
    if not rows:
        raise NotFound(f"{lineage.root}: no {what} {name}")
    return rows[0]


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
        row | {"version": lineage.writer(place[row[key]]).version, "path": place[row[key]].path}
        for row in rows
    ]


def _keys(lineage: Lineage, file: LiveFile) -> list[Row]:
    """The keys of the file's rows, in its order."""
    columns = list(TABLES[file.table].key)
    rows: pa.Table = pq.read_table(lineage.store.open(file.path, file.bytes), columns=columns)
    found: list[Row] = rows.to_pylist()
    return found


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
where round is not distinct from $round and list_contains(label_ids, $id)
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
