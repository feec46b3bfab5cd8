"""Verify: every file of a version held to the ledger; files that no commit mentions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warehouse.ledger.commits import Commit, Replacements, files_ever, taken_files
from warehouse.ledger.evidence import Problem, _deleted_since, check_files
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store
from warehouse.store.base import Entry


@dataclass(frozen=True)
class Verification:
    """What was looked at, in files, rows and bytes, and what is wrong.

    `orphans` are data files that no commit mentions: unread, a matter for `vacuum`.
    """

    files: int
    rows: int
    bytes: int
    problems: tuple[Problem, ...]
    orphans: tuple[Entry, ...]


def verify(
    root: str | Path,
    as_of: int | None = None,
    *,
    all_versions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Holds every file of version `as_of` (None: the newest), or of all versions, to the ledger.

    `progress` is told bytes done and bytes in all, from several threads. Versions that a vacuum
    took files of are no part of all versions. Raises Vacuumed and WarehouseError for an `as_of`
    that cannot be read; damage to the ledger is a problem among the others, and then all files
    that its readable commits mention are looked at.
    """
    store = open_store(root, read_only=True)
    # Before the ledger: a file that is committed meanwhile must not look like an orphan.
    entries = store.entries("")
    ledger = Ledger(store)
    commits, wrong = ledger.damage()
    problems = [
        Problem(path, "ledger", said) for path, _, said in (x.partition(" ") for x in wrong)
    ]
    replaced = Replacements(commits)
    if wrong:
        files = list(files_ever(commits, replaced).values())
    elif all_versions:
        taken = taken_files(commits, replaced)
        files = [f for f in files_ever(commits, replaced).values() if f.path not in taken]
    else:
        files = ledger.files(as_of)
    there = {entry.key: entry for entry in entries}
    problems += check_files(store, files, progress)
    if not wrong and _deleted_since(ledger, problems):
        # A vacuum or a forget beside us, which commits before it deletes: no damage.
        return verify(root, as_of, all_versions=all_versions, progress=progress)
    problems += [
        Problem(path, "forgotten", "a forgotten prompt's rows are still here: run vacuum")
        for path in sorted(replaced.dead & there.keys())
    ]
    return Verification(
        files=len(files),
        rows=sum(file.rows for file in files),
        bytes=sum(file.bytes for file in files),
        problems=tuple(problems),
        # A lost commit would make orphans of all its files.
        orphans=() if wrong else tuple(orphans(entries, commits)),
    )


def orphans(entries: Iterable[Entry], commits: Sequence[Commit]) -> list[Entry]:
    """Data files that no commit mentions, and what killed puts left (but for the ledger's)."""
    replaced = Replacements(commits)
    known = files_ever(commits, replaced).keys() | replaced.dead
    known |= {file.path for commit in commits for file in commit.add}
    return [entry for entry in entries if _is_data(entry.key) and entry.key not in known]


def _is_data(key: str) -> bool:
    """Whether vacuum may judge this key: a table's Parquet file, or the leftover of a put."""
    folder, _, name = key.rpartition("/")
    if folder.startswith("_ledger"):
        return False
    is_table = folder.partition("/")[0] in TABLES
    return name.startswith(".put-") or (is_table and name.endswith(".parquet"))
