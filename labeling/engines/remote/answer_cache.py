"""Answers paid for once: an engine around an engine that keeps every answer in an SQLite file.

What is asked decides, never who asks: a request is its whole wording, its sampling and the endpoint
and model it goes to, so a text that comes again another night, in another round or file is answered
from here. An answer is written the moment it arrives, so a killed or budget-stopped stage keeps
what it paid for. Kept are answers that would come again; a throttled call would not.
Workers on one machine share the file; two that ask the same at the same moment both pay. Not here:
money and rates (dispatch.py), which judge keeps its answers (labelers/build.py).
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.engines.config import JudgeEngineConfig
from labeling.errors import LabelingError
from warehouse.files import text_sha256

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the file and of a request's identity
KEPT_STATUSES = ("ok", "empty", "truncated", "filtered")
# How fast, how dear and as whom a judge is asked; every other key may reach its answer.
_NOT_IN_ANSWERS = {
    *("max_in_flight", "tokens_per_minute", "budget_usd", "timeout_seconds", "max_retries"),
    *("price", "api_key_env", "profile", "batch"),
}
_CHUNK = 500  # SQLite takes a limited number of parameters
_BUSY_SECONDS = 60.0
_ROWS = "select request, answer, check_sha256 from answers"
_TABLE = """
create table if not exists answers
    (request text primary key, answer text not null, check_sha256 text not null) without rowid
"""


class CachedChatEngine:
    """See ChatEngine. What the file holds is answered from it, the rest by `engine`.

    An answer from here has `is_cached`, costs 0 and took no time; its usage, model and request id
    are those of the call that was paid for. A file that cannot be used costs calls, not the night:
    a damaged one is set aside, a damaged row is asked again.
    """

    def __init__(self, engine: ChatEngine, path: Path, config: JudgeEngineConfig) -> None:
        self._engine, self._path = engine, path
        settings = config.model_dump(mode="json", exclude=_NOT_IN_ANSWERS)
        self._place = [_FORMAT, engine.name, settings]
        self.name, self.version, self.model = engine.name, engine.version, engine.model

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """See ChatEngine.complete. Of equal requests one is sent, its answer is given to all."""
        identities = {r.key: _identity(self._place, r) for r in requests}
        askers: dict[str, list[ChatRequest]] = {}
        for request in requests:
            askers.setdefault(identities[request.key], []).append(request)
        answers: dict[str, ChatAnswer] = {}

        def give(answer: ChatAnswer) -> None:
            answers[answer.key] = answer
            if done is not None:
                done(answer)

        with closing(_AnswerFile(self._path)) as file:

            def arrived(answer: ChatAnswer) -> None:
                """First written down, then told to all who asked it."""
                identity = identities[answer.key]
                if answer.status in KEPT_STATUSES:
                    file.write(identity, answer)
                give(answer)
                for request in askers[identity][1:]:
                    give(_again(answer, request.key))

            for identity, answer in file.read(list(askers)).items():
                for request in askers[identity]:
                    give(_again(answer, request.key))
            asked = [first for first, *_ in askers.values() if first.key not in answers]
            for answer in self._engine.complete(asked, arrived) if asked else []:
                if answer.key not in answers:  # returned, but not told of
                    arrived(answer)
        return [answers[request.key] for request in requests if request.key in answers]

    def close(self) -> None:
        """Closes the engine; the file is closed after every batch."""
        self._engine.close()


def forget_answers(
    path: Path, is_meant: Callable[[ChatAnswer], bool], *, dry_run: bool
) -> list[str]:
    """Deletes the answers that are meant, and damaged rows; returns their requests' hashes.

    The pages that they leave are overwritten. Raises LabelingError for a file that is no database.
    """
    if not path.is_file():
        return []
    try:
        with closing(_connect(path)) as connection:
            rows = ((row[0], _decoded(*row)) for row in connection.execute(_ROWS))
            found = [request for request, it in rows if it is None or is_meant(it)]
            if found and not dry_run:
                connection.execute("pragma secure_delete = on")
                connection.executemany(
                    "delete from answers where request = ?", [(request,) for request in found]
                )
                connection.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.Error as error:
        raise LabelingError(
            f"{path}: {error}; it holds nothing but kept answers: delete it and run this again"
        ) from error
    return found


class _AnswerFile:
    """The SQLite file, open for one batch; unusable, it holds nothing and says so once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def read(self, identities: Sequence[str]) -> dict[str, ChatAnswer]:
        """Identity -> answer, of those that are there and whole."""
        found: dict[str, ChatAnswer] = {}
        for start in range(0, len(identities), _CHUNK):
            chunk = identities[start : start + _CHUNK]
            query = f"{_ROWS} where request in ({', '.join('?' * len(chunk))})"
            try:
                rows = self._connection.execute(query, chunk).fetchall() if self._connection else []
            except sqlite3.Error as error:
                logger.warning("%s: a part cannot be read, is asked again: %s", self._path, error)
                continue
            found |= {row[0]: it for row in rows if (it := _decoded(*row)) is not None}
        return found

    def write(self, identity: str, answer: ChatAnswer) -> None:
        """Stands on disk when this returns, whatever becomes of the process."""
        if self._connection is None:
            return
        text = json.dumps(asdict(answer))
        try:
            self._connection.execute(
                "insert or replace into answers values (?, ?, ?)",
                (identity, text, _check(identity, text)),
            )
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        """The file with its table; one that is no database is renamed and a new one begun."""
        with FileLock(f"{self._path}.lock", timeout=_BUSY_SECONDS):
            try:
                return _connect(self._path)
            except sqlite3.OperationalError:  # locked, read-only, no room: nothing is damaged
                raise
            except sqlite3.DatabaseError as error:
                aside = self._path.with_name(f"{self._path.name}.damaged")
                logger.warning("%s is damaged (%s): it is kept as %s", self._path, error, aside)
                self._path.replace(aside)
                for suffix in ("-wal", "-shm"):  # of the damaged file, not of the new one
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                return _connect(self._path)

    def _give_up(self, error: Exception) -> None:
        what = "answers are not kept, every call is paid; make room or rights for it, or delete it"
        logger.warning("%s: %s: %s", self._path, what, error)
        self.close()


def _connect(path: Path) -> sqlite3.Connection:
    # An engine may tell of answers from a thread of its own, one at a time.
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # Readers and a writer at once; survives a killed process without a sync per answer.
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(_TABLE)
        connection.execute(f"{_ROWS} limit 1").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _identity(place: Sequence[object], request: ChatRequest) -> str:
    """64 hex digits of all that the endpoint is told; `key` is the caller's own."""
    told = {name: value for name, value in vars(request).items() if name != "key"}
    told["messages"] = [dict(message) for message in request.messages]
    return text_sha256(json.dumps([*place, told], sort_keys=True))


def _again(answer: ChatAnswer, key: str) -> ChatAnswer:
    """The answer for another asker, who pays nothing and does not wait."""
    return replace(
        answer, key=key, is_cached=True, cost_usd=0.0, retries=0, seconds=0.0, queued_seconds=0.0
    )


def _check(identity: str, text: str) -> str:
    return text_sha256(f"{identity}\n{text}")


def _decoded(identity: str, text: object, check: object) -> ChatAnswer | None:
    """None for a row that is not what was written."""
    if not isinstance(text, str) or check != _check(identity, text):
        return None
    try:
        fields: Mapping[str, Any] = json.loads(text)
        return ChatAnswer(**fields)
    except (ValueError, TypeError):
        return None
