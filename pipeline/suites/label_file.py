"""`roundhouse label --input FILE`: any file of texts, labelled outside a round.

One row per text and labeler, in a file of its own: no warehouse is read or written, no template
is published, and there is nothing to resume. The labelers work one after the other, each in a stage
process of its own, and read the file in shards, so memory stays flat. Beam is not used: one file
is one reader. A call that is killed leaves its hidden folder `.OUT.*` beside OUT. Not here: labels
of a round (stages/labels.py), what a row may look like (texts.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
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
from pipeline.errors import ConfigError, StageFailed
from pipeline.runtime.machine import choose_device
from pipeline.runtime.process import run_in_process, warm_up
from pipeline.runtime.progress import Heartbeat, StageDisplay
from pipeline.runtime.shards import answers_file
from pipeline.suites.texts import Subject, check_input, count_rows, read_subjects, subject_table
from warehouse.schemas import TABLES

_OF_ROUNDS = ("round", "rollout_id", "partner_rollout_id", "prompt_id")
_LABEL_FIELDS = [field for field in TABLES["labels"].schema if field.name not in _OF_ROUNDS]
SCHEMA = pa.schema(
    [pa.field("id", pa.string()), pa.field("line", pa.int64())]
    + [field.with_nullable(True).remove_metadata() for field in _LABEL_FIELDS]
)
_FORMATS = (".jsonl", ".parquet")
READ_PROMPTS = ("judge", "reward_model")
_LOGS, _PROGRESS = "_logs", "progress"
_BATCH_ROWS = 2048


@dataclass(frozen=True)
class FileLabels:
    """What one labeler made of the file: rows by status, most frequent first."""

    labeler: str
    statuses: dict[str, int]


def label_file(
    config: RunConfig, source: Path, out: Path, names: Sequence[str], say: Callable[[str], None]
) -> list[FileLabels]:
    """Writes the labels of every text by the labelers of these names (none: all) to `out`.

    `out` (.jsonl or .parquet) appears whole or not at all. Columns: id, line (of the file, from 1)
    and those of table `labels` that are not about rounds. Rows: labelers in the order of the
    configuration, texts in that of the file. Raises ConfigError, StageFailed.
    """
    labelers = chosen_labelers(config, names)
    pairwise = [x.name for x in labelers if getattr(x, "mode", None) == "pairwise"]
    if pairwise:
        raise ConfigError(
            f"labelers.{pairwise[0]}: a pairwise judge compares completions of a round; name the "
            "others with --labeler"
        )
    _check_output(source, out)
    check_input(source)
    device = choose_device(config.device)
    with _work_folder(out) as work:
        warm_up(device, work / _LOGS / "imports.log")
        made = [_run_stage(config, labeler, source, work, device) for labeler in labelers]
        _write(out, work, [_part(work, labeler.name) for labeler in labelers])
    for labels in made:
        counts = ", ".join(f"{status} {count}" for status, count in labels.statuses.items())
        say(f"  {labels.labeler:<24} {sum(labels.statuses.values()):>8} rows: {counts or 'none'}")
    say(f"labels     {out}")
    return made


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, so that the last step is a rename; swept, but for a failure's log."""
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    keep_logs = False
    try:
        yield work
    except StageFailed as error:
        keep_logs = True
        reason = str(error).partition("\nWhat it had finished")[0]  # nothing is kept here
        raise StageFailed(f"{reason}\n{out} is not written.") from error
    finally:
        if keep_logs:
            for part in (*work.glob("labels-*"), *work.glob("spending.sqlite*")):
                part.unlink()
            shutil.rmtree(work / _PROGRESS, ignore_errors=True)
        else:
            shutil.rmtree(work, ignore_errors=True)


def _check_output(source: Path, out: Path) -> None:
    if out.suffix not in _FORMATS:
        raise ConfigError(f"--out {out}: expected a name that ends in {' or '.join(_FORMATS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: is a folder or the input itself; name another file")


def _part(work: Path, labeler: str) -> Path:
    return work / f"labels-{labeler}.parquet"


def _run_stage(
    config: RunConfig, labeler: LabelerConfig, source: Path, work: Path, device: str
) -> FileLabels:
    """Labels the whole file by one labeler in its own process, with progress."""
    with StageDisplay(f"{labeler.name} (labelling)", work / _PROGRESS):
        statuses, _ = run_in_process(
            label_texts,
            (config, labeler, source, work),
            log=work / _LOGS / f"{labeler.name}.log",
            device=device,
        )
    shutil.rmtree(work / _PROGRESS, ignore_errors=True)
    return FileLabels(labeler.name, statuses)


def label_texts(
    config: RunConfig, labeler: LabelerConfig, source: Path, work: Path
) -> dict[str, int]:
    """The stage: labels every row of `source` into `work`; returns rows by status."""
    from pipeline.policies.policies import building_progress, resolve

    total = count_rows(source)
    folder = work / _PROGRESS
    folder.mkdir(exist_ok=True)
    loaded = build_labeler(
        labeler,
        device=choose_device(config.device),
        resolve=functools.partial(resolve, config, progress=building_progress(folder)),
        paid=PaidWork(
            answers=answers_file(None),
            spending=work / "spending.sqlite",
            budget_usd=config.budget_usd,
        ),
    )
    for path in folder.glob("progress-*.json"):  # steps of a model are no rows of the file
        path.unlink()
    heartbeat = Heartbeat(folder, labeler.name, total, "texts")
    statuses: Counter[str] = Counter()
    with pq.ParquetWriter(_part(work, labeler.name), SCHEMA, compression="zstd") as writer:
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
    problem = f"{subject.place}: {why}"
    return subject._replace(problem=problem)


def _loose(labels: pa.Table) -> pa.Table:
    return labels.cast(pa.schema([field.with_nullable(True) for field in labels.schema]))


def _write(out: Path, work: Path, parts: Sequence[Path]) -> None:
    """The parts, one after the other, under a temporary name; then the rename."""
    temporary = work / out.name
    if out.suffix == ".parquet":
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for rows in _batches(parts):
                writer.write_batch(rows)
    else:
        with temporary.open("w", encoding="utf-8") as file:
            for rows in _batches(parts):
                for row in rows.to_pylist():
                    file.write(json.dumps(row, ensure_ascii=False, default=_json) + "\n")
    temporary.replace(out)


def _batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from pq.ParquetFile(part).iter_batches(batch_size=_BATCH_ROWS)


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
