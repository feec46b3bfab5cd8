"""Vacuum: files that nobody can read any more are deleted, and nothing else.

Four kinds: files that only versions before the retention read (none, unless a retention is named:
labels and rollouts are what was paid for), data files that no commit mentions, what killed puts
left, and what a killed `forget` or vacuum had still to delete. The first is recorded as a commit
before anything is deleted, so that `--as-of` can say why an old version is gone. Beside a running
publish it is safe by age: a file is an orphan only when it has lain there for hours.
Not here: `_ledger/`, which is never touched, and which policies are any good.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from warehouse.errors import AlreadyPublished, Conflict, MissingObject, WarehouseError
from warehouse.handle import Warehouse
from warehouse.keys import maintenance_key
from warehouse.ledger.commits import (
    OLDEST,
    VACUUM,
    Commit,
    Replacements,
    dead_paths,
    unreadable_below,
)
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.verify import orphans
from warehouse.store.base import Entry, Store

# A publish puts its files and commits at once; an hour is longer than any of them takes.
YOUNGEST_ORPHAN = timedelta(hours=1)
_POLICIES = "policies/"


@dataclass(frozen=True)
class Vacuum:
    """What a vacuum deletes or, on a dry run, would delete.

    `oldest`: the oldest version that stays whole; `expired`: files that only earlier ones read.
    `leftovers`: what an earlier forget or vacuum had still to delete. `policies`: folder name ->
    its objects, of policies that no round and no training names; deleted only when asked for.
    `young`: orphans that may belong to a running publish. `version`: of the commit, if there is.
    """

    oldest: int
    expired: tuple[Entry, ...]
    leftovers: tuple[Entry, ...]
    orphans: tuple[Entry, ...]
    policies: dict[str, tuple[Entry, ...]]
    young: int
    version: int | None = None


def vacuum(
    root: str | Path,
    *,
    keep_versions: int | None = None,
    older_than: timedelta | None = None,
    orphans_older_than: timedelta = timedelta(hours=24),
    with_policies: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Vacuum:
    """Deletes what no kept version reads: see the module. A killed vacuum is finished by the next.

    Kept are the newest `keep_versions`, or those that were current within `older_than`; neither:
    all. Raises WarehouseError for a retention that makes no sense, CorruptFile for a damaged
    ledger.
    """
    _check(keep_versions, older_than, orphans_older_than)
    warehouse = Warehouse.open(root, read_only=True)
    store, ledger = warehouse.store, warehouse.ledger
    now = now or datetime.now(UTC)
    entries = store.entries("")  # before the ledger: what is committed meanwhile is no orphan
    commits = ledger.commits()
    oldest = _oldest(commits, keep_versions, None if older_than is None else now - older_than)
    found = _find(warehouse, entries, commits, oldest, now - orphans_older_than)
    if dry_run:
        return found
    if found.expired:
        found = replace(found, version=_record(ledger, found))
    doomed = [*found.expired, *found.leftovers, *found.orphans]
    delete(store, [entry.key for entry in doomed])
    if with_policies:
        _delete_policies(store, found.policies)
    return found


def delete(store: Store, keys: Iterable[str]) -> int:
    """Deletes what is still there; returns how many objects that were."""
    deleted = 0
    for key in keys:
        with contextlib.suppress(MissingObject):  # another vacuum has been here
            store.delete(key)
            deleted += 1
    return deleted


def _check(
    keep_versions: int | None, older_than: timedelta | None, orphans_older_than: timedelta
) -> None:
    if keep_versions is not None and older_than is not None:
        raise WarehouseError("vacuum: --keep-versions and --older-than exclude each other")
    if keep_versions is not None and keep_versions < 1:
        raise WarehouseError(f"vacuum: --keep-versions {keep_versions}: the newest always stays")
    if older_than is not None and older_than < timedelta(0):
        raise WarehouseError("vacuum: --older-than counts days back from now, so not below 0")
    if orphans_older_than < YOUNGEST_ORPHAN:
        raise WarehouseError(
            "vacuum: --orphans-older-than: at least 1 hour, or the files of a publish that is "
            "about to commit would be deleted"
        )


def _oldest(commits: Sequence[Commit], keep: int | None, cutoff: datetime | None) -> int:
    """The oldest version to keep; the one that was current at `cutoff` is kept with the later."""
    if keep is not None:
        return max(0, len(commits) - keep)
    if cutoff is not None:
        return max((c.version for c in commits if c.committed_at <= cutoff), default=0)
    return 0


def _find(
    warehouse: Warehouse,
    entries: Sequence[Entry],
    commits: Sequence[Commit],
    oldest: int,
    orphan_cutoff: datetime,
) -> Vacuum:
    there = {entry.key: entry for entry in entries}
    left = dead_paths(commits)
    dead = unreadable_below(commits, oldest, Replacements(commits)).keys() - left
    found = orphans(entries, commits)
    old = tuple(entry for entry in found if entry.modified <= orphan_cutoff)
    return Vacuum(
        oldest=oldest,
        expired=tuple(there[path] for path in sorted(dead & there.keys())),
        leftovers=tuple(there[path] for path in sorted(left & there.keys())),
        orphans=old,
        policies=_unnamed_policies(warehouse, entries, commits, orphan_cutoff),
        young=len(found) - len(old),
    )


def _record(ledger: Ledger, found: Vacuum) -> int:
    """Commits which versions stay whole, before any of the others loses a file."""
    number = sum(commit.operation == VACUUM for commit in ledger.commits())
    meta = {
        OLDEST: str(found.oldest),
        "files": str(len(found.expired)),
        "bytes": str(sum(entry.bytes for entry in found.expired)),
    }
    key = maintenance_key(VACUUM, number)
    try:
        return ledger.append(key, [], operation=VACUUM, meta=meta).version
    except AlreadyPublished:
        raise Conflict(
            f"{key}: another vacuum was faster; nothing is deleted by this one, run it again"
        ) from None


def _unnamed_policies(
    warehouse: Warehouse, entries: Sequence[Entry], commits: Sequence[Commit], cutoff: datetime
) -> dict[str, tuple[Entry, ...]]:
    """Policies that no commit's meta and no round names, and that no training is just writing."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        name = entry.key.removeprefix(_POLICIES).partition("/")
        if entry.key.startswith(_POLICIES) and name[1]:
            folders.setdefault(name[0], []).append(entry)
    if not folders:
        return {}
    columns = ["policy_revision_in", "policy_revision_out", "reference_revision"]
    rounds = warehouse.read_table("rounds", columns=columns)
    named = {commit.meta.get("policy_revision") for commit in commits}
    for column in columns:
        named |= set(rounds[column].to_pylist())
    return {
        name: tuple(found)
        for name, found in folders.items()
        if name not in named and all(entry.modified <= cutoff for entry in found)
    }


def _delete_policies(store: Store, policies: dict[str, tuple[Entry, ...]]) -> None:
    for name, found in policies.items():
        delete(store, [entry.key for entry in found])
        folder = store.local_path(f"{_POLICIES}{name}")
        if folder is not None:  # an empty folder would pass for a policy
            shutil.rmtree(folder, ignore_errors=True)
