"""Publishing: rows become checked, sorted Parquet files and one commit.

One file per table and round, whatever the number of shards they came from, because the number of
files is what makes queries slow. The data files go first, under names nobody knows; the commit
makes them all visible at once. Killed at any moment, publish leaves orphans only.
Not here: what the rows go through before (incoming/), how a file is written (ledger/data_files.py),
the commit file (ledger/ledger.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import (
    AlreadyPublished,
    Conflict,
    CorruptFile,
    ForgottenMeanwhile,
    MissingFile,
    SchemaMismatch,
)
from warehouse.incoming.checks import PublishRefused, run_checks
from warehouse.incoming.derived import with_purpose, with_sums
from warehouse.incoming.prepared import prepare
from warehouse.ledger.commits import FORGET, VACUUM, Commit, LiveFile
from warehouse.ledger.data_files import put_rows
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.suppression import forgotten, without_forgotten
from warehouse.schemas import TABLES, conform
from warehouse.store import open_store
from warehouse.store.base import Store

__all__ = ["PublishRefused", "publish", "read_staged"]
_SUSPICIOUS_SECONDS = 1800  # half the age at which vacuum may first take a file for an orphan


def publish(
    root: str | Path,
    key: str,
    tables: Mapping[str, pa.Table],
    *,
    round: int | None = None,
    remove: Sequence[str] = (),
    code_version: str = "",
    config_sha256: str = "",
    meta: Mapping[str, str] | None = None,
    operation: str = "publish",
    since: int | None = None,
) -> Commit:
    """Writes `tables` (name -> rows) and commits them, and the removal of the paths `remove`.

    An empty table adds no file, the commit is written all the same. Prompts and templates are
    named by their content: rows that are live already are left out. With `round`, every row of a
    table by round must carry it. With `since`, no other commit may have touched these tables after
    that version.
    Rows of forgotten prompts are left out, also of those forgotten while this call ran.
    Raises AlreadyPublished for a key in the ledger, SchemaMismatch, or PublishRefused for a
    repeated key, a NaN, a foreign round, or a failed check of `sql/checks`; Conflict as
    Ledger.append does; TrainedOnForgotten.
    """
    store = open_store(root)
    ledger = Ledger(store)
    # One version for all checks, and it comes before the look for the key: rows of another process
    # that publishes the same key right now would look like rows that stand twice.
    seen = ledger.head()
    if ledger.find(key):
        raise AlreadyPublished(key)
    ledger.refuse_dead(key, remove)
    gone = forgotten(ledger.commits(seen))
    kept = without_forgotten(key, tables, gone)
    live = [file for file in ledger.files(seen) if file.path not in set(remove)]
    about: dict[str, Any] = {
        "operation": operation,
        "code_version": code_version,
        "config_sha256": config_sha256,
        "meta": meta,
        "since": since,
    }
    try:
        outdated: list[str] = []
        if "labels" in kept:
            kept["labels"] = with_purpose(store, kept["labels"], kept.get("rollouts"), live)
            kept["prompt_sums"], outdated = with_sums(store, kept["labels"], live)
            live = [file for file in live if file.path not in outdated]
        fresh = {name: prepare(store, name, rows, round, live) for name, rows in kept.items()}
        began = time.time()
        added = _put_checked(store, key, fresh, live)
    except (duckdb.Error, OSError, MissingFile):
        if not _lost_files(ledger, seen):
            raise
        return publish(root, key, tables, round=round, remove=remove, **about)
    if time.time() - began > _SUSPICIOUS_SECONDS:
        _refuse_vacuumed(store, key, added)
    try:
        return ledger.append(key, added, [*remove, *outdated], seen=seen, **about)
    except Conflict as error:
        for file in added:  # they may hold what was forgotten; nobody has read them
            store.delete(file.path)
        if not isinstance(error, ForgottenMeanwhile):
            raise
    return publish(root, key, tables, round=round, remove=remove, **about)


def _put_checked(
    store: Store, key: str, fresh: Mapping[str, pa.Table], live: Sequence[LiveFile]
) -> list[LiveFile]:
    """Writes the rows while they are checked; none of the files is put before they passed."""
    with ThreadPoolExecutor(1) as beside:
        checks = beside.submit(run_checks, store, key, fresh, live)
        added = [
            file
            for name, rows in fresh.items()
            for file in put_rows(store, name, rows, when=checks.result)
        ]
        checks.result()
    return added


def _refuse_vacuumed(store: Store, key: str, added: Sequence[LiveFile]) -> None:
    """A process that slept for hours may find its files vacuumed (maintenance/vacuum.py)."""
    lost = [file.path for file in added if not store.exists(file.path)]
    if lost:
        raise Conflict(f"{key}: {lost[0]} was deleted before it was committed; run it again")


def _lost_files(ledger: Ledger, seen: int) -> bool:
    """Whether a forget or a vacuum may have deleted files of version `seen` since."""
    return any(c.operation in (FORGET, VACUUM) for c in ledger.commits()[seen + 1 :])


def read_staged(paths: Sequence[Path], table: str) -> pa.Table:
    """The rows of staged shards of `table`, in the order of `paths`, in the table's schema.

    Raises CorruptFile or SchemaMismatch naming the shard.
    """
    shards = []
    for path in paths:
        try:
            shards.append(conform(table, pq.ParquetFile(path).read()))
        except (OSError, pa.ArrowException) as error:
            raise CorruptFile(f"{path}: damaged or missing: {error}") from error
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{path}: {error}") from error
    return pa.concat_tables([TABLES[table].schema.empty_table(), *shards])
