"""`roundhouse label --input FILE`: any file of texts, labelled outside a round.

One row per text and labeler, in a file of its own: no warehouse is read or written, no template
is published, and there is nothing to resume. The labelers work one after the other, each in a stage
process of its own, and read the file in shards, so memory stays flat. Beam is not used: one file
is one reader. Not here: labels of a round (stages/labels.py), what a row may look like (texts.py).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.engines.chat import PaidWork
from labeling.label import Measurement, label_rows
from labeling.labeler import Labeler
from labeling.labelers.build import build_labeler
from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig, chosen_labelers
from pipeline.errors import ConfigError
from pipeline.runtime.machine import choose_device
from pipeline.runtime.preloads import label_preloads
from pipeline.runtime.process import warm_up
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.shards import answers_file
from pipeline.suites.texts import Subject, check_input, count_rows, read_subjects, subject_table
from pipeline.suites.work import PROGRESS, logs_of, run_stage, stage_folder
from warehouse.files import whole_file
from warehouse.schemas import TABLES

_OF_ROUNDS = ("round", "rollout_id", "partner_rollout_id", "prompt_id")
_LABEL_FIELDS = [field for field in TABLES["labels"].schema if field.name not in _OF_ROUNDS]
SCHEMA = pa.schema(
    [pa.field("id", pa.string()), pa.field("line", pa.int64())]
    + [field.with_nullable(True).remove_metadata() for field in _LABEL_FIELDS]
)
_FORMATS = (".jsonl", ".parquet")
READ_PROMPTS = ("judge", "reward_model")
_BATCH_ROWS = 2048


@dataclass(frozen=True)
class FileLabels:
    """What one labeler made of the file: rows by status, most frequent first.

    `rows` is a Parquet file of SCHEMA in the work folder, one row per text in their order.
    """

    labeler: str
    statuses: dict[str, int]
    rows: Path


def label_file(
    config: RunConfig, source: Path, out: Path, names: Sequence[str], say: Callable[[str], None]
) -> list[FileLabels]:
    """Writes the labels of every text by the labelers of these names (none: all) to `out`.

    `out` (.jsonl or .parquet) appears whole or not at all. Columns: id, line (of the file, from 1)
    and those of table `labels` that are not about rounds. Rows: labelers in the order of the
    configuration, texts in that of the file. Raises ConfigError, StageFailed.
    """
    labelers = text_labelers(config, names)
    _check_output(source, out)
    with stage_folder(out) as work:
        check_input(source)
        made = label_by(config, labelers, source, work)
        _write(out, [labels.rows for labels in made])
    for labels in made:
        counts = ", ".join(f"{status} {count}" for status, count in labels.statuses.items())
        say(f"  {labels.labeler:<24} {sum(labels.statuses.values()):>8} rows: {counts or 'none'}")
    say(f"labels     {out}")
    return made


def text_labelers(config: RunConfig, names: Sequence[str]) -> list[LabelerConfig]:
    """The labelers of these names (none: all), all of which label a text by itself. ConfigError."""
    labelers = chosen_labelers(config, names)
    pairwise = [x.name for x in labelers if getattr(x, "mode", None) == "pairwise"]
    if pairwise:
        raise ConfigError(
            f"labelers.{pairwise[0]}: a pairwise judge compares completions of a round; name the "
            "others with --labeler"
        )
    return labelers


def label_by(
    config: RunConfig, labelers: Sequence[LabelerConfig], source: Path, work: Path
) -> list[FileLabels]:
    """Labels every text of `source` by each labeler, in a process of its own, into `work`."""
    device = choose_device(config.device)
    warm_up(device, logs_of(work) / "imports.log", label_preloads(labelers))
    made = []
    for labeler in labelers:
        rows = work / f"labels-{labeler.name}.parquet"
        statuses = run_stage(
            work, labeler.name, "labelling", label_texts, config, labeler, source, rows,
            device=device,
        )  # fmt: skip
        made.append(FileLabels(labeler.name, statuses, rows))
    return made


def _check_output(source: Path, out: Path) -> None:
    if out.suffix not in _FORMATS:
        raise ConfigError(f"--out {out}: expected a name that ends in {' or '.join(_FORMATS)}")
    if out.is_dir() or out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: is a folder or the input itself; name another file")


def label_texts(
    config: RunConfig, labeler: LabelerConfig, source: Path, out: Path
) -> dict[str, int]:
    """The stage: labels every row of `source` into `out`; returns rows by status."""
    from pipeline.policies.policies import building_progress, resolve

    total = count_rows(source)
    folder = out.with_name(PROGRESS)
    folder.mkdir(exist_ok=True)
    loaded = build_labeler(
        labeler,
        device=choose_device(config.device),
        resolve=functools.partial(resolve, config, progress=building_progress(folder)),
        paid=PaidWork(
            answers=answers_file(None),
            spending=out.with_name("spending.sqlite"),
            budget_usd=config.budget_usd,
        ),
    )
    for path in folder.glob("progress-*.json"):  # steps of a model are no rows of the file
        path.unlink()
    heartbeat = Heartbeat(folder, labeler.name, total, "texts")
    statuses: Counter[str] = Counter()
    with pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer:
        for subjects in read_subjects(source, config.beam.shard_rows):
            labels = label_shard(loaded, subjects, heartbeat)
            statuses.update(labels["status"].to_pylist())
            writer.write_table(labels)
    loaded.close()
    return dict(statuses.most_common())


def label_shard(labeler: Labeler, subjects: list[Subject], heartbeat: Heartbeat) -> pa.Table:
    """One row of SCHEMA per subject, in order: the labeler's label, or status error."""
    if labeler.identity.kind in READ_PROMPTS:
        subjects = [_with_prompt(subject) for subject in subjects]
    good = [subject for subject in subjects if subject.problem is None]
    bad = [subject for subject in subjects if subject.problem is not None]
    heartbeat.advance(len(bad))
    faults = [Measurement("error", status_detail=subject.problem) for subject in bad]
    refused = label_rows(labeler.identity, subject_table(bad), faults)
    nothing = pa.nulls(len(bad), pa.string())  # there is no text whose hash this could be
    place = refused.column_names.index("completion_sha256")
    refused = refused.set_column(place, "completion_sha256", nothing)
    tables = [labeler.label(subject_table(good), heartbeat.advance)] if good else []
    # A judge that writes also returns what it had to ask again; the file has a row per text.
    tables = [table.filter(table["is_final"]) for table in tables]
    lines = pa.array([subject.line for subject in good + bad], pa.int64())
    labels = pa.concat_tables([_loose(table) for table in (*tables, refused)])
    labels = labels.rename_columns({"rollout_id": "id"}).append_column("line", lines)
    return labels.sort_by("line").select(SCHEMA.names).cast(SCHEMA)


def _with_prompt(subject: Subject) -> Subject:
    """Judges and reward models read prompt and completion: a bare text is not for them."""
    if subject.problem is not None or subject.messages is not None:
        return subject
    why = "judges and reward models need prompt and completion; this row is a text"
    return subject._replace(problem=f"{subject.place}: {why}")


def _loose(labels: pa.Table) -> pa.Table:
    return labels.cast(pa.schema([field.with_nullable(True) for field in labels.schema]))


def _write(out: Path, parts: Sequence[Path]) -> None:
    """The parts, one after the other; `out` appears whole or not at all."""
    with whole_file(out) as fresh:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(fresh, SCHEMA, compression="zstd") as writer:
                for rows in _batches(parts):
                    writer.write_batch(rows)
        else:
            with fresh.open("w", encoding="utf-8") as file:
                for rows in _batches(parts):
                    for row in rows.to_pylist():
                        file.write(
                            json.dumps(row, ensure_ascii=False, default=datetime.isoformat) + "\n"
                        )


def _batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from pq.ParquetFile(part).iter_batches(batch_size=_BATCH_ROWS)
