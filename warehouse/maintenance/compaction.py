"""Compact: several live files that are one key's work in one table and round become one.

Publish already writes one file per table and round; more come when work is amended (prompts sampled
again beside those that went well). Only files of the same key are joined, because a file is what
tells whose work its rows are (Ledger.files_of): joined across keys, a round's gate would read the
labels of all labelers as one. The commit amends the key, so its work is found as before; old
versions keep their files until a vacuum.
Not here: deleting the old files (vacuum.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from warehouse.errors import Conflict, CorruptFile, MissingFile, WarehouseError
from warehouse.keys import maintenance_key
from warehouse.ledger.commits import LiveFile, origins
from warehouse.ledger.data_files import MAX_BYTES, put_like
from warehouse.ledger.evidence import read_rows
from warehouse.ledger.ledger import Ledger, chosen
from warehouse.maintenance.vacuum import delete
from warehouse.schemas import TABLES
from warehouse.store import open_store
from warehouse.store.base import Store

_OPERATION = "compact"


@dataclass(frozen=True)
class Compacted:
    """Files of one key, table and round that are (or, on a dry run, would be) one file."""

    key: str
    table: str
    round: int | None
    files: int
    rows: int
    bytes: int
    version: int | None = None


def compact(
    root: str | Path,
    *,
    table: str | None = None,
    rounds: Sequence[int] | None = None,
    dry_run: bool = False,
) -> list[Compacted]:
    """Joins files, one commit per key; rows and their order by key are the same, or it raises.

    `table`, `rounds`: only these. Files that would be larger than a publish writes stay apart.
    Raises WarehouseError for an unknown table, CorruptFile for a damaged file, Conflict when
    another commit has replaced a file meanwhile; what was committed before it stays.
    """
    if table is not None and table not in TABLES:
        raise WarehouseError(f"no table {table}; there are: {', '.join(TABLES)}")
    store = open_store(root, read_only=True)
    ledger = Ledger(store)
    done = []
    for key, groups in _joinable(ledger, table, rounds).items():
        version = None if dry_run else _join(store, ledger, key, groups)
        done += [
            Compacted(
                key,
                files[0].table,
                files[0].round,
                files=len(files),
                rows=sum(file.rows for file in files),
                bytes=sum(file.bytes for file in files),
                version=version,
            )
            for files in groups
        ]
    return done


def _joinable(
    ledger: Ledger, table: str | None, rounds: Sequence[int] | None
) -> dict[str, list[list[LiveFile]]]:
    """Key -> groups of files of one schema version that may become one, two or more."""
    now = ledger.snapshot()
    owner = origins(now.commits)
    groups: dict[tuple[str, str, int | None, int], list[LiveFile]] = {}
    for file in chosen(now.files, table, rounds):
        groups.setdefault(
            (owner[file.path], file.table, file.round, file.schema_version), []
        ).append(file)
    found: dict[str, list[list[LiveFile]]] = {}
    for (key, *_), files in groups.items():
        if len(files) > 1 and sum(file.bytes for file in files) <= MAX_BYTES:
            found.setdefault(key, []).append(files)
    return found


def _join(store: Store, ledger: Ledger, key: str, groups: Sequence[Sequence[LiveFile]]) -> int:
    """Writes one file per group, reads it back, and commits if the rows are the same."""
    number = sum(commit.operation == _OPERATION for commit in ledger.commits())
    added = []
    try:
        for files in groups:
            rows = _sorted(files[0].table, [read_rows(store, file) for file in files])
            added.append(put_like(store, files[0], rows))
            if not read_rows(store, added[-1]).equals(rows):
                raise CorruptFile(f"{store.root}/{added[-1].path}: is not what was written")
        return ledger.append(
            maintenance_key(_OPERATION, number),
            added,
            [file.path for files in groups for file in files],
            operation=_OPERATION,
            meta={"amends": key},
        ).version
    except WarehouseError as error:
        delete(store, [file.path for file in added])
        if isinstance(error, MissingFile) and ledger.is_dead(error.path):
            raise Conflict(f"{key}: {error.path} was deleted meanwhile; run it again") from error
        raise


def _sorted(table: str, parts: Sequence[pa.Table]) -> pa.Table:
    about = TABLES[table]
    order = (*about.sort, *(column for column in about.key if column not in about.sort))
    return pa.concat_tables(parts).sort_by([(column, "ascending") for column in order])
