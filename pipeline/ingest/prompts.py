"""Prompt sources -> the `prompts` table: ids from content, split by the first human turn.

A malformed row becomes a dead letter that names its place; its neighbours are taken. Formats: HH's
transcripts (`chosen`/`rejected`, .jsonl or .jsonl.gz), JSONL, Parquet, a Hub data set, the starter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import PromptsConfig
from pipeline.errors import ConfigError
from pipeline.ingest.files import dead_letter, json_lines
from pipeline.ingest.messages import (
    MalformedPrompt,
    Messages,
    first_turn_sha256,
    is_holdout,
    messages_of,
)
from warehouse import schemas
from warehouse.errors import AlreadyPublished
from warehouse.files import file_sha256, sha256_of, text_sha256
from warehouse.handle import Warehouse
from warehouse.keys import prompts_key
from warehouse.ledger.suppression import forgotten, normalise
from warehouse.publish import publish


@dataclass(frozen=True)
class Ingest:
    """What an ingest brought: rows new to the warehouse, rows left out.

    `forgotten`: prompts that `roundhouse forget` keeps out.
    """

    train: int
    holdout: int
    duplicates: int
    malformed: int
    examples: tuple[str, ...] = ()
    forgotten: int = 0


def ingest(root: str, config: PromptsConfig, seed: int) -> Ingest | None:
    """Publishes the source's prompts that the warehouse lacks; None if it was ingested before."""
    key = prompts_key(source_sha256(config, seed))
    warehouse = Warehouse.open(root)
    if warehouse.is_published(key):
        return None
    known = set(warehouse.read_table("prompts", columns=["prompt_id"])["prompt_id"].to_pylist())
    gone = forgotten(warehouse.ledger.commits())
    rows: dict[str, dict[str, object]] = {}
    dead: list[dict[str, object]] = []
    duplicates = hidden = 0
    for place, value in _read(config, seed):
        try:
            if isinstance(value, MalformedPrompt):
                raise value
            row = _prompt_row(messages_of(value), config)
        except (MalformedPrompt, UnicodeError) as error:
            payload = None if isinstance(value, MalformedPrompt) else value
            dead.append(dead_letter("prompts", place, payload, error))
            continue
        prompt_id = str(row["prompt_id"])
        if gone.has_prompt(prompt_id, str(row["messages"])):
            hidden += 1
            continue
        duplicates += prompt_id in rows or prompt_id in known
        if prompt_id not in known:
            rows.setdefault(prompt_id, row)
        if config.limit and len(rows) >= config.limit:
            break
    if not rows and not known:
        raise ConfigError(f"prompts.path {config.path}: no usable prompt ({len(dead)} malformed)")
    tables = {
        "prompts": schemas.table_from_rows("prompts", list(rows.values())),
        "dead_letters": schemas.table_from_rows("dead_letters", dead),
    }
    try:
        publish(root, key, tables, meta={"source": config.source, "path": str(config.path)})
    except AlreadyPublished:
        return None
    held = sum(row["purpose"] == "holdout" for row in rows.values())
    examples = tuple(f"{d['row_id']}: {d['message']}" for d in dead[:3])
    return Ingest(len(rows) - held, held, duplicates, len(dead), examples, hidden)


def source_sha256(config: PromptsConfig, seed: int) -> str:
    """Identity of a source: its configuration and, for files, their bytes."""
    identity: dict[str, object] = config.model_dump()
    if config.source == "starter":
        identity["seed"] = seed
    elif config.source != "dataset":
        identity["files"] = [file_sha256(path) for path in _files(config)]
        identity.pop("path")
    return sha256_of(identity)


def _files(config: PromptsConfig) -> list[Path]:
    path = Path(str(config.path))
    endings = (".parquet",) if config.source == "parquet" else (".jsonl", ".jsonl.gz")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith(endings))
    missing = [str(f) for f in files if not f.is_file()]
    if missing or not files:
        raise ConfigError(f"prompts.path: no such file, or a folder without any: {config.path}")
    return files


def _read(config: PromptsConfig, seed: int) -> Iterator[tuple[str, object]]:
    """(place, value) of every row; an unreadable row's value is the MalformedPrompt itself."""
    if config.source == "starter":
        from training.starters.starters import starter_prompts

        for number, messages in enumerate(starter_prompts(seed=seed)):
            yield f"starter:{number}", messages
    elif config.source == "dataset":
        from datasets import load_dataset

        for number, row in enumerate(load_dataset(str(config.path), split=config.split)):
            yield f"{config.path}:{number}", _column(row, config)
    elif config.source == "parquet":
        for path in _files(config):
            yield from _read_parquet(path, config)
    else:
        for path in _files(config):
            for number, line in json_lines(path):
                yield f"{path.name}:{number}", _parse_line(line, config)


def _parse_line(line: bytes, config: PromptsConfig) -> object:
    try:
        row = json.loads(line)
    except ValueError as error:
        return MalformedPrompt(f"not valid JSON: {error}")
    return _column(row, config)


def _read_parquet(path: Path, config: PromptsConfig) -> Iterator[tuple[str, object]]:
    try:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        wanted = [c for c in (config.column, "messages", "prompt", "chosen") if c in names][:1]
        if not wanted:
            raise ConfigError(f"{path}: no column {config.column}; it has {sorted(names)}")
        number = 0
        for batch in file.iter_batches(columns=wanted):
            for value in batch.column(0).to_pylist():
                number += 1
                yield f"{path.name}:{number}", value
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {error}") from error


def _column(row: object, config: PromptsConfig) -> object:
    if not isinstance(row, dict):
        return MalformedPrompt(f"expected an object, found {type(row).__name__}")
    names = ("chosen",) if config.source == "hh" else (config.column, "messages", "chosen")
    for name in names:
        if name in row:
            return row[name]
    return MalformedPrompt(f"no key {names[0]!r}; the row has {sorted(map(str, row))[:8]}")


def _prompt_row(messages: Messages, config: PromptsConfig) -> dict[str, object]:
    digest = first_turn_sha256(messages)
    text = json.dumps(messages, ensure_ascii=False)
    text.encode()  # a lone surrogate fails here, as this row's fault
    content = "\x1e".join(f"{m['role']}\x1f{normalise(m['content'])}" for m in messages)
    return {
        "prompt_id": text_sha256(content)[:16],
        "source": config.source,
        "purpose": "holdout" if is_holdout(digest, config.holdout) else "train",
        "first_turn_sha256": digest,
        "messages": text,
        "extra": None,
        "ingested_at": datetime.now(UTC),
    }
