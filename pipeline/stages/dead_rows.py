"""Stages of `roundhouse replay-dead`: failed labels and refused prompts, tried again.

Each ends in one commit that amends the one whose work it does again. Not here: which stages have
something to do (replay.py), what becomes of the rows (dead_rows.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from labeling.judges.config import JudgeConfig
from labeling.label import label_id
from pipeline.config import RunConfig
from pipeline.runtime.publishing import StageReport, code_version, report_of, work_meta
from pipeline.runtime.shards import Manifest, StageSpec, staged_rows
from pipeline.stages.labels import label_subjects, read_subjects, revision_of
from pipeline.stages.rollouts import sample_prompts
from pipeline.stages.rounds import rollout_values
from warehouse.handle import Warehouse
from warehouse.keys import amendment_key, labels_key, rollouts_key
from warehouse.publish import publish, read_staged
from warehouse.schemas import conform

RETRIED = ("throttled", "timeout", "error")  # what another time may go well


def relabel_failed(
    config: RunConfig,
    warehouse: Warehouse,
    stage: str,
    number: int,
    purpose: str,
    name: str,
    statuses: Sequence[str],
) -> StageReport:
    """The stage: labels what one labeler failed at or missed, and amends its commit."""
    warehouse = warehouse.at(warehouse.ledger.head())  # one moment: rows read are rows replaced
    labeler = config.labeler(name)
    key = labels_key(number, purpose, name, revision_of(config, labeler))
    old = warehouse.read_table("labels", rounds=[number], keys=[key])
    failed = failed_labels(old, statuses)
    rollouts = rollout_values(warehouse, number, purpose, "rollout_id")
    unlabelled = rollouts - set(old["rollout_id"].to_pylist())
    wanted = pa.array(sorted(unlabelled | set(failed["rollout_id"].to_pylist())), pa.string())
    if not len(wanted):  # another run has been here
        return StageReport(key)
    subjects = read_subjects(warehouse, number, purpose)
    subjects = subjects.filter(pc.field("rollout_id").isin(wanted))
    if isinstance(labeler, JudgeConfig) and not set(statuses) <= set(RETRIED):
        # An answer that was read and refused is kept; only a new one can be another.
        labeler = labeler.model_copy(update={"reuse_answers": False})
    new_key, removed = _amendment(warehouse, key, "labels")
    spec, manifests = label_subjects(config, labeler, stage, new_key, subjects)
    fresh = read_staged(staged_rows(spec, manifests, "rows"), "labels")
    rows = with_new_attempts(old, fresh, failed, unlabelled)
    left = failed_labels(rows, statuses).num_rows
    report = _report(new_key, spec, manifests, len(wanted), left)
    _amend(config, key, report, {"labels": rows}, removed, number, spec)
    return report


def resample(
    config: RunConfig, warehouse: Warehouse, key: str, number: int, purpose: str
) -> StageReport:
    """The stage: samples the prompts that were refused, and amends the rollouts' commit."""
    warehouse = warehouse.at(warehouse.ledger.head())  # as in relabel_failed
    dead = dead_prompts(warehouse, number, purpose)
    if not dead:
        return StageReport(key)
    prompts = warehouse.read_table("prompts", columns=["prompt_id", "purpose", "messages"])
    prompts = prompts.filter(pc.field("prompt_id").isin(pa.array(list(dead), pa.string())))
    prompts = prompts.sort_by("prompt_id")
    new_key, _ = _amendment(warehouse, key, "rollouts")
    spec, manifests = sample_prompts(config, warehouse, new_key, number, purpose, prompts)
    again = read_staged(staged_rows(spec, manifests, "dead"), "dead_letters")
    attempts = [int(str(dead[row]["attempt"])) + 1 for row in again["row_id"].to_pylist()]
    place = again.schema.get_field_index("attempt")
    again = again.set_column(place, again.schema.field(place), pa.array(attempts, pa.int16()))
    rollouts = read_staged(staged_rows(spec, manifests, "rows"), "rollouts")
    tables = {"rollouts": rollouts, "dead_letters": again}
    report = _report(new_key, spec, manifests, len(dead), again.num_rows)
    _amend(config, key, report, tables, [], number, spec)
    return report


def dead_prompts(warehouse: Warehouse, number: int, purpose: str) -> dict[str, dict[str, object]]:
    """Prompt id -> its latest dead letter, of the refused prompts that have no rollouts since."""
    key = rollouts_key(number, purpose)
    letters = warehouse.read_table("dead_letters", rounds=[number], keys=[key])
    done = rollout_values(warehouse, number, purpose, "prompt_id")
    rows = letters.sort_by("attempt").to_pylist()
    return {row["row_id"]: row for row in rows if row["row_id"] not in done}


def _amendment(warehouse: Warehouse, key: str, table: str) -> tuple[str, list[str]]:
    """The key of the next commit that amends `key`, and the table's files that are its work now."""
    ledger, as_of = warehouse.ledger, warehouse.as_of
    earlier = sum(commit.meta.get("amends") == key for commit in ledger.commits(as_of))
    files = [file.path for file in ledger.files_of([key], as_of, table)]
    return amendment_key(key, earlier + 1), files


def _amend(
    config: RunConfig,
    key: str,
    report: StageReport,
    tables: dict[str, pa.Table],
    removed: list[str],
    number: int,
    spec: StageSpec,
) -> None:
    """One commit; a second run that was quicker makes this one fail, and nothing is doubled."""
    publish(
        config.warehouse,
        report.key,
        tables,
        round=number,
        remove=removed,
        code_version=code_version(),
        config_sha256=spec.config_sha256,
        meta={"amends": key} | work_meta(report),
        operation="replay",
    )
    shutil.rmtree(spec.folder, ignore_errors=True)


def _report(
    key: str, spec: StageSpec, manifests: Sequence[Manifest], tried: int, left: int
) -> StageReport:
    notes = {"tried again": str(tried), "failed again": str(left)}
    return replace(report_of(key, spec, manifests), rows=tried, dead=0, notes=notes)


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
