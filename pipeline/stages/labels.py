"""Stage: rollouts -> labels, one Beam stage and one commit per labeler, in the one shape.

A label that fails is a row with a status and no score, so every rollout of the shard gets its row;
only a dead backend stops the stage. Train labels come with the night's sentinels, scored by the
same loaded labeler. Not here: how a text is scored (labeling).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from labeling.engines.chat import PaidWork
from labeling.errors import LabelingError
from labeling.gate.sentinels import SentinelSet, is_starter
from labeling.judges.config import JudgeConfig
from labeling.judges.pairwise import pair_subjects
from labeling.labelers.build import build_labeler, labeler_revision
from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.policies.policies import resolve
from pipeline.runtime.machine import choose_device
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.publishing import StageReport, publish_once, publish_stage
from pipeline.runtime.shards import (
    Manifest,
    ShardResult,
    StageSpec,
    answers_file,
    run_stage,
    split_rows,
    stage_spec,
    staged_rows,
)
from warehouse import schemas
from warehouse.files import sha256_of
from warehouse.handle import Warehouse
from warehouse.keys import labels_key, rollouts_key, template_key
from warehouse.publish import read_staged
from warehouse.store.local_cache import local_folder

if TYPE_CHECKING:
    from labeling.labeler import Labeler
    from labeling.reviser.reviser import Reviser

_MakeRows = Callable[[pa.Table, Callable[[int], None]], pa.Table]
_SUBJECT_COLUMNS = ["rollout_id", "round", "prompt_id", "completion", "completion_sha256"]


def revision_of(config: RunConfig, labeler: LabelerConfig) -> str:
    """The labeler's revision under this configuration: model, rubric and parser, hashed."""
    return labeler_revision(labeler, functools.partial(resolve, config))


def label(
    config: RunConfig,
    warehouse: Warehouse,
    stage: str,
    round_number: int,
    purpose: str,
    name: str,
) -> StageReport:
    """Labels and publishes the round's rollouts of one purpose by one labeler."""
    labeler = config.labeler(name)
    revision = revision_of(config, labeler)
    key = labels_key(round_number, purpose, name, revision)
    if warehouse.is_published(key):
        return StageReport(key)
    subjects = read_subjects(warehouse, round_number, purpose)
    if isinstance(labeler, JudgeConfig) and labeler.mode == "pairwise":
        subjects = pair_subjects(subjects, labeler.pairs)
    sentinels = sentinel_set(config, labeler) if purpose == "train" else None
    if sentinels is None:
        spec, manifests = label_subjects(config, labeler, stage, key, subjects)
        return publish_stage(config, spec, manifests, "labels", key=key, round_number=round_number)
    # A shard of their own: scored by the same loaded labeler, resumable, in the same commit.
    known = sentinels.subjects(labeler.criterion, round_number).select(subjects.column_names)
    known = known.cast(subjects.schema)
    spec, (*manifests, last) = label_subjects(config, labeler, stage, key, subjects, known)
    found = read_staged(staged_rows(spec, [last], "rows"), "labels")
    templates = {"templates": sentinels.template_rows()}
    publish_once(config, template_key(sentinels.sha256), templates)
    tables = {"sentinels": sentinels.rows(labeler.criterion, found)}
    return publish_stage(
        config, spec, manifests, "labels", key=key, round_number=round_number, extra=tables
    )


def label_subjects(
    config: RunConfig,
    labeler: LabelerConfig,
    stage: str,
    key: str,
    subjects: pa.Table,
    last_shard: pa.Table | None = None,
) -> tuple[StageSpec, list[Manifest]]:
    """Labels these rows into the staging folder of the work `key`; nothing is published."""
    texts = [
        rows["completion_sha256"].to_pylist() for rows in (subjects, last_shard) if rows is not None
    ]
    identity = sha256_of([key, *texts])
    spec = stage_spec(config, stage, identity, "labels")
    round_number = subjects["round"][0].as_py() if subjects.num_rows else 0
    make = functools.partial(LabelWorker, config, labeler, round_number)
    shards = split_rows(subjects, config.beam.shard_rows)
    return spec, run_stage(spec, shards if last_shard is None else [*shards, last_shard], make)


def read_subjects(warehouse: Warehouse, round_number: int, purpose: str) -> pa.Table:
    """The texts to label: rollouts of a round and purpose with their prompt's messages, by id."""
    key = rollouts_key(round_number, purpose)
    if not warehouse.is_published(key):
        raise ConfigError(
            f"{warehouse.root}: round {round_number} has no {purpose} rollouts yet; generate"
        )
    rollouts = warehouse.read_table(
        "rollouts", rounds=[round_number], columns=_SUBJECT_COLUMNS, keys=[key]
    )
    prompts = warehouse.read_table("prompts", columns=["prompt_id", "messages"])
    return rollouts.join(prompts, keys="prompt_id", join_type="inner").sort_by("rollout_id")


def spending_file(root: str, round_number: int) -> Path:
    """Where the workers of all labelers of a round keep their limits; a resumed night counts on."""
    return local_folder(root) / "_staging" / f"spending-round={round_number}.sqlite"


def paid_work(config: RunConfig, round_number: int) -> PaidWork:
    """What the paid calls of a round share: answers, limits, budget."""
    return PaidWork(
        answers=answers_file(config.warehouse),
        spending=spending_file(config.warehouse, round_number),
        budget_usd=config.budget_usd,
    )


class LabelRowsWorker:
    """Makes rows of `labels` out of shards with one loaded model, whose templates it publishes."""

    def __init__(self, config: RunConfig, model: Labeler | Reviser, make: _MakeRows) -> None:
        self._labeler, self._make = model, make
        templates = model.template_rows()
        for row in templates.to_pylist():
            # By content, so the second worker and the second night find it there.
            one = pa.Table.from_pylist([row], schema=templates.schema)
            publish_once(config, template_key(row["template_sha256"]), {"templates": one})

    def run(self, rows: pa.Table, progress: Heartbeat) -> ShardResult:
        """The labels of every subject, with the attempts that led to them; no row is dead."""
        labels = self._make(rows, progress.advance)
        return ShardResult(
            rows=labels,
            dead=schemas.TABLES["dead_letters"].schema.empty_table(),
            ok_rows=rows.num_rows,
            tokens=int(pc.sum(labels["input_tokens"]).as_py() or 0),
        )


class LabelWorker(LabelRowsWorker):
    """Labels shards with one loaded labeler."""

    def __init__(self, config: RunConfig, labeler: LabelerConfig, round_number: int) -> None:
        loaded = build_labeler(
            labeler,
            device=choose_device(config.device),
            resolve=functools.partial(resolve, config),
            paid=paid_work(config, round_number),
        )
        super().__init__(config, loaded, loaded.label)


def sentinel_set(config: RunConfig, labeler: LabelerConfig) -> SentinelSet | None:
    """The set for this labeler; None where there is none, or none of its criterion.

    `auto` takes the starters' own set for starters trained on the project's grammar, else the
    default one. Raises ConfigError for a set that cannot be read.
    """
    name = config.gate.sentinels
    if name == "none" or getattr(labeler, "mode", "pointwise") != "pointwise":
        return None
    if name == "auto":
        is_grammar = is_starter(labeler) and config.policy.starter_text is None
        name = "starter" if is_grammar else "default"
    try:
        found = SentinelSet.load(name)
    except LabelingError as error:
        raise ConfigError(f"gate.sentinels: {error}") from error
    return found if found.of(labeler.criterion) else None
