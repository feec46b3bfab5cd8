"""HH's files of preference pairs, read: one row is a dialogue with two answers, the chosen first.

A row is `{"chosen": transcript, "rejected": transcript}` (JSONL, also gzipped); the transcripts
share all turns but the last. A line that is no such pair costs only itself. Not here: where pairs
are stored (gold_pairs.py).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.prompts import MalformedPrompt, Messages, check_messages, transcript_turns

_PAYLOAD_LENGTH = 2000


@dataclass(frozen=True)
class Pair:
    """One human preference: the dialogue up to the last human turn, and two answers to it."""

    messages: Messages
    chosen: str
    rejected: str


def read_pairs(path: Path) -> tuple[list[Pair], list[dict[str, object]]]:
    """The file's pairs, and a dead letter for every line that holds none."""
    pairs, dead = [], []
    for number, line in _lines(path):
        try:
            pairs.append(parse_pair(json.loads(line)))
        except (ValueError, RecursionError) as error:
            dead.append(_dead_letter(f"{path.name}:{number}", line, error))
    return pairs, dead


def parse_pair(row: object) -> Pair:
    """The pair in one row of HH. Raises MalformedPrompt saying what is wrong with it."""
    if not isinstance(row, dict):
        raise MalformedPrompt(f"expected an object, found {type(row).__name__}")
    sides = []
    for name in ("chosen", "rejected"):
        text = row.get(name)
        if not isinstance(text, str):
            raise MalformedPrompt(f"no transcript under the key {name!r}")
        turns = transcript_turns(text)
        if turns[-1]["role"] != "assistant":
            raise MalformedPrompt(f"{name} ends with a human turn; there is no answer to compare")
        if not turns[-1]["content"]:
            raise MalformedPrompt(f"the answer of {name} is empty")
        sides.append(turns)
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise MalformedPrompt("chosen and rejected answer different dialogues")
    pair = Pair(check_messages(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"])
    if pair.chosen == pair.rejected:
        raise MalformedPrompt("chosen and rejected are the same text")
    json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate fails here, as this row's fault
    return pair


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; nothing of it is imported") from error


def _dead_letter(place: str, line: bytes, error: Exception) -> dict[str, object]:
    is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    message = str(error) if is_json else f"not valid JSON: {error}"
    return {
        "stage": "gold-pairs",
        "row_id": place,
        "error_type": type(error).__name__,
        "message": message.encode("utf-8", "replace").decode()[:500],
        "payload": line.decode("utf-8", "replace")[:_PAYLOAD_LENGTH],
        "attempt": 1,
        "failed_at": datetime.now(UTC),
    }
