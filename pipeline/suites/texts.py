"""Files of texts to label: JSONL or Parquet rows in, shards of subjects out, a few rows at a time.

A row holds `text`, or `prompt` (a question, an HH transcript or messages) and `completion`, and
maybe `id`. A row that does not costs only itself: it comes out as a subject with a message that
names file and line. Not here: labels (label_file.py), prompts of a round (ingest/prompts.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.label import decoded_texts
from pipeline.errors import ConfigError
from pipeline.ingest.files import json_lines
from pipeline.ingest.messages import MalformedPrompt, messages_of
from warehouse.files import text_sha256

_COLUMNS = ("id", "text", "prompt", "completion")
_JSONL = (".jsonl", ".jsonl.gz", ".ndjson")


class Subject(NamedTuple):
    """One row of the file; `place` is file:line. `problem` says why it cannot be labelled."""

    line: int
    id: str
    place: str
    messages: str | None = None
    completion: str | None = None
    problem: str | None = None


def check_input(path: Path) -> None:
    """Raises ConfigError unless the file is there and its name tells a format that is read."""
    if not path.is_file():
        raise ConfigError(f"--input {path}: no such file")
    if not path.name.endswith((*_JSONL, ".parquet")):
        raise ConfigError(
            f"--input {path}: expected a name that ends in {', '.join((*_JSONL, '.parquet'))}"
        )


def count_rows(path: Path) -> int:
    """Rows of the file, the blank lines of a JSONL file not counted. Raises ConfigError."""
    if path.name.endswith(".parquet"):
        return int(_parquet(path).metadata.num_rows)
    return sum(1 for _ in json_lines(path))


def read_subjects(path: Path, shard_rows: int) -> Iterator[list[Subject]]:
    """The file's rows in order, in shards of at most `shard_rows`. Raises ConfigError.

    Lines count from 1; for Parquet they are row numbers, which count from 1 as well.
    """
    rows = _parquet_rows(path, shard_rows) if path.name.endswith(".parquet") else json_lines(path)
    subjects = (_subject(path, line, row) for line, row in rows)
    while shard := list(itertools.islice(subjects, shard_rows)):
        yield shard


def subject_table(subjects: list[Subject]) -> pa.Table:
    """What a labeler reads of a shard (see labeling.labeler.Labeler); `round` is NULL."""
    texts = [subject.completion or "" for subject in subjects]
    return pa.table(
        {
            "rollout_id": pa.array([subject.id for subject in subjects], pa.string()),
            "round": pa.nulls(len(subjects), pa.int32()),
            "prompt_id": pa.array([""] * len(subjects), pa.string()),
            "messages": pa.array([subject.messages for subject in subjects], pa.large_string()),
            "completion": pa.array(texts, pa.large_string()),
            "completion_sha256": [text_sha256(text) for text in texts],
        }
    )


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"--input {path}: not a readable Parquet file: {error}") from error


def _parquet_rows(path: Path, shard_rows: int) -> Iterator[tuple[int, dict[str, object]]]:
    file = _parquet(path)
    there = file.schema_arrow.names
    if "text" not in there and not {"prompt", "completion"} <= set(there):
        raise ConfigError(f"--input {path}: no column text, nor prompt and completion: {there}")
    names = [name for name in _COLUMNS if name in there]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=shard_rows, columns=names):
            columns = [_values(batch.column(name)) for name in names]
            for values in zip(*columns, strict=True):
                number += 1
                yield number, dict(zip(names, values, strict=True))
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"--input {path}: unreadable after row {number}: {error}") from error


def _values(column: pa.Array) -> list[object]:
    """The values of a column; a text that is not valid UTF-8 becomes None and so a bad row."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return list(decoded_texts(pa.chunked_array([column])))
    return list(column.to_pylist())


def _subject(path: Path, line: int, row: bytes | Mapping[str, object]) -> Subject:
    """The row as a subject, whatever it holds."""
    name, place = str(line), f"{path.name}:{line}"
    try:
        values = _parsed(row) if isinstance(row, bytes) else row
        name = _id(values.get("id"), line)
        return Subject(line, name, place, *_text(values))
    except (MalformedPrompt, UnicodeError) as error:
        return Subject(line, name, place, problem=f"{place}: {error}")


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedPrompt(f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise MalformedPrompt(f"expected an object, found {type(row).__name__}")
    return row


def _id(value: object, line: int) -> str:
    if value is None:
        return str(line)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedPrompt(f"id is neither text nor a whole number: {type(value).__name__}")
    str(value).encode()  # a lone surrogate fails here, as this row's fault
    return str(value)


def _text(row: Mapping[str, object]) -> tuple[str | None, str]:
    """(messages as JSON or None, the text to label); `completion` goes before `text`."""
    if row.get("completion") is not None and row.get("prompt") is not None:
        messages = json.dumps(messages_of(row["prompt"]), ensure_ascii=False)
        messages.encode()
        return messages, _string("completion", row["completion"])
    if row.get("text") is not None:
        return None, _string("text", row["text"])
    found = [name for name in _COLUMNS if row.get(name) is not None]
    raise MalformedPrompt(
        f"no text: expected text, or prompt and completion; it has {found or 'neither'}"
    )


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise MalformedPrompt(f"{name} is not a string but {type(value).__name__}")
    value.encode()
    return value
