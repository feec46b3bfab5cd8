"""What a file of another system holds, whatever its format: scored completions, pairs, bad lines.

A bad line costs only itself. Not here: the formats (trl_completions.py, openai_jsonl.py,
hh_pairs.py), what the records become in the warehouse (rows.py).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.ingest.messages import (
    MalformedPrompt,
    Messages,
    check_messages,
    refuse_surrogates,
)

_PAYLOAD_LENGTH = 2000


@dataclass(frozen=True)
class Pair:
    """One human preference: the dialogue up to the last human turn, and two answers to it."""

    messages: Messages
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ScoredRollout:
    """One completion of a prompt, with raw scores by name; a score that was not given is absent.

    `policy` is what the file says of the model; `weight` whether the file wants it trained on.
    """

    messages: Messages
    completion: str
    scores: dict[str, float] = field(default_factory=dict)
    policy: str = "unknown"
    weight: float | None = None


@dataclass
class FileContent:
    """What one file holds; `dead` has a row of table `dead_letters` for every unusable line."""

    rollouts: list[ScoredRollout] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    dead: list[dict[str, object]] = field(default_factory=list)

    @property
    def problems(self) -> tuple[str, ...]:
        """The unusable lines as `file:line: why`."""
        return tuple(f"{row['row_id']}: {row['message']}" for row in self.dead)

    def require(self, path: Path, what: str) -> None:
        """Raises ConfigError for a file without anything usable, with its first bad lines."""
        if self.rollouts or self.pairs:
            return
        shown = "; ".join(self.problems[:3])
        why = f"{len(self.dead)} malformed lines: {shown}" if self.dead else "the file is empty"
        raise ConfigError(f"{path}: no usable {what} ({why})")


def read_records(
    path: Path, rows: Iterable[Any], parse: Callable[[Any], Pair | ScoredRollout], stage: str
) -> FileContent:
    """What `parse` makes of the numbered `rows`; one it raises for is a dead letter of `stage`."""
    content = FileContent()
    for number, row in rows:
        try:
            found = parse(row)
        except (ValueError, RecursionError) as error:
            content.dead.append(dead_letter(stage, f"{path.name}:{number}", row, error))
            continue
        if isinstance(found, Pair):
            content.pairs.append(found)
        else:
            content.rollouts.append(found)
    return content


def checked_rollout(rollout: ScoredRollout) -> ScoredRollout:
    """The rollout, if its prompt is one and its completion holds text. Raises MalformedPrompt."""
    check_messages(rollout.messages)
    if not rollout.completion.strip():
        raise MalformedPrompt("the completion is empty")
    refuse_surrogates(rollout.messages, rollout.completion)
    return rollout


def dead_letter(stage: str, place: str, payload: object, error: Exception) -> dict[str, object]:
    """A row of table `dead_letters` for one line, row or message that holds nothing usable."""
    is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    message = str(error) if is_json else f"not valid JSON: {error}"
    text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else repr(payload)
    return {
        "stage": stage,
        "row_id": place,
        "error_type": type(error).__name__,
        "message": _storable(message)[:500],
        "payload": None if payload is None else _storable(text)[:_PAYLOAD_LENGTH],
        "attempt": 1,
        "failed_at": datetime.now(UTC),
    }


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def json_lines(path: Path, consequence: str = "") -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line of a .jsonl or .jsonl.gz that is not blank.

    Raises ConfigError for a file that is not there, cut off or damaged; it ends in `consequence`.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}{consequence}") from error
