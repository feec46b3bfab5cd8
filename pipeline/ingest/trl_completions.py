"""TRL's completions Parquet, read: what GRPO, RLOO and distillation log with `log_completions`.

A file has `step`, `prompt`, `completion` (texts, or lists of messages), one float column per reward
function, `advantage`, and whatever reward functions logged beside it (`log_extra`), which stands in
the same place: a logged number looks like a reward, so rewards can be named. A missing reward (NaN
or NULL: the function returned None) is no score. TRL writes its last generation batch at every log,
so one completion may stand in several files. Its `advantage` depends on its neighbours and is left
out. Not here: what a row becomes in the warehouse (rows.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.ingest.files import FileContent, ScoredRollout, checked_rollout, read_records
from pipeline.ingest.messages import (
    MalformedPrompt,
    Messages,
    check_messages,
    messages_of,
    text_messages,
)

_OWN_COLUMNS = ("step", "prompt", "completion", "advantage", "image", "images")


def read_completions(path: Path, source: str, rewards: Sequence[str] = ()) -> FileContent:
    """The file's completions; a row that is no text completion of a prompt is a dead letter.

    `rewards` names the columns that are scores; none: every column of floats. `source` names the
    policy, with the step. Raises ConfigError for a file that is none of TRL's or lacks a column.
    """
    parse = functools.partial(_rollout, source)
    return read_records(path, enumerate(_rows(path, rewards), start=1), parse, "import")


def _rows(path: Path, rewards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows as `prompt`, `completion`, `step` and `scores`."""
    try:
        with pq.ParquetFile(path) as file:
            columns = _score_columns(path, file.schema_arrow, rewards)
            wanted = [n for n in ("step", "prompt", "completion") if n in file.schema_arrow.names]
            for batch in file.iter_batches(columns=[*wanted, *columns]):
                for row in batch.to_pylist():
                    scores = {name: row.pop(name) for name in columns}
                    yield row | {"scores": scores}
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {error}") from error


def _score_columns(path: Path, schema: pa.Schema, rewards: Sequence[str]) -> list[str]:
    missing = {"prompt", "completion"} - set(schema.names)
    if missing:
        raise ConfigError(
            f"{path}: no column {' or '.join(sorted(missing))}; TRL's completions have step, "
            f"prompt, completion and rewards, this file has {schema.names}"
        )
    floats = [
        field.name
        for field in schema
        if pa.types.is_floating(field.type) and field.name not in _OWN_COLUMNS
    ]
    unknown = sorted(set(rewards) - set(floats))
    if unknown:
        raise ConfigError(f"--reward {unknown[0]}: {path} has no such column; floats are {floats}")
    return list(rewards) or floats


def _rollout(source: str, row: dict[str, Any]) -> ScoredRollout:
    scores = {
        name: float(value)
        for name, value in row["scores"].items()
        if value is not None and not math.isnan(value)
    }
    step = row.get("step")
    return checked_rollout(
        ScoredRollout(
            messages=_prompt(row["prompt"]),
            completion=_completion(row["completion"]),
            scores=scores,
            policy=source if step is None else f"{source}/step-{step}",
        )
    )


def _prompt(value: object) -> Messages:
    return messages_of(value) if isinstance(value, str) else check_messages(text_messages(value))


def _completion(value: object) -> str:
    if isinstance(value, str):
        return value
    messages = text_messages(value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise MalformedPrompt("expected a completion of one message of the assistant")
    return str(messages[0]["content"])
