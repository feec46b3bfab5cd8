"""The ledger: an append-only list of commits that says which files make up the warehouse.

A commit is one JSON file `_ledger/0000000042.json`, created once and never changed. It carries the
key of the work it did (`round=17/rewards`); a second commit under a key is refused, so running the
same work again is safe. The live files at a version are the fold of all commits up to it: a glob
never defines a table. Creating the commit file is the only commit point; what a killed publish
leaves before it are orphans that nobody sees.
Not here: reading commit files (commit_files.py), what they add up to (commits.py), data files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from warehouse.errors import (
    AlreadyExists,
    AlreadyPublished,
    Conflict,
    ForgottenMeanwhile,
    Vacuumed,
    WarehouseError,
)
from warehouse.ledger.commit_files import CommitFiles
from warehouse.ledger.commits import (
    FORGET,
    OLDEST,
    Commit,
    LiveFile,
    Replacements,
    dead_paths,
    live_files,
    vacuumed_by,
    writers,
)
from warehouse.store.base import Store


class Snapshot(NamedTuple):
    """A version: its commits, the files live at it; path -> the commit that wrote its rows."""

    commits: list[Commit]
    files: list[LiveFile]
    writers: dict[str, Commit]


class _Look(NamedTuple):
    """What one look at the store showed: the commits up to a version, path -> the live file."""

    commits: list[Commit]
    live: dict[str, LiveFile]
    replaced: Replacements


def chosen(
    files: Iterable[LiveFile], table: str | None, rounds: Sequence[int | None] | None
) -> list[LiveFile]:
    """Those of a table and of some rounds, in their order; None: of all."""
    return [
        file
        for file in files
        if table in (None, file.table) and (rounds is None or file.round in rounds)
    ]


class Ledger:
    """The commits of one store. Commits are immutable, so those once read are remembered."""

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._files = CommitFiles(store)

    def commits(self, as_of: int | None = None) -> list[Commit]:
        """All commits up to version `as_of`, oldest first. Raises as CommitFiles.read does."""
        return self._files.read(as_of)

    def damage(self) -> tuple[list[Commit], list[str]]:
        """The commits that can be read, and what is wrong with the others, one line each."""
        return self._files.damage()

    def head(self) -> int:
        """The newest version, -1 for an empty warehouse."""
        return len(self.commits()) - 1

    def find(self, key: str) -> Commit | None:
        """The commit under `key`, or None."""
        return next((commit for commit in self.commits() if commit.key == key), None)

    def files(
        self,
        as_of: int | None = None,
        table: str | None = None,
        rounds: Sequence[int | None] | None = None,
    ) -> list[LiveFile]:
        """The files live at version `as_of`, in the order of their commits.

        Raises Vacuumed for a version that has lost files to a vacuum.
        """
        return chosen(self._look(as_of).live.values(), table, rounds)

    def is_dead(self, path: str) -> bool:
        """Whether the ledger says by now that a forget or a vacuum may have deleted this file."""
        return path in dead_paths(self.commits())

    def snapshot(self, as_of: int | None = None) -> Snapshot:
        """Everything about version `as_of`, from one look at the store.

        Raises Vacuumed for a version that has lost files to a vacuum.
        """
        commits, live, replaced = self._look(as_of)
        return Snapshot(commits, list(live.values()), writers(commits, replaced))

    def files_of(
        self,
        keys: Sequence[str],
        as_of: int | None = None,
        table: str | None = None,
        rounds: Sequence[int | None] | None = None,
    ) -> list[LiveFile]:
        """The live files that are the work of these keys, in the order of their commits.

        They were added under a key or by a commit that says in its `meta` that it `amends` one: a
        part of the work done again, its old file removed in the same commit. Raises WarehouseError
        for a key that is not in the ledger.
        """
        commits, live, replaced = self._look(as_of)
        missing = sorted(set(keys) - {commit.key for commit in commits})
        if missing:
            raise WarehouseError(f"{self._root}: nothing is published under {missing[0]}")
        paths = {
            replaced.path(file.path)
            for commit in commits
            if commit.key in keys or commit.meta.get("amends") in keys
            for file in commit.add
        }
        return chosen((file for path, file in live.items() if path in paths), table, rounds)

    def refuse_dead(self, key: str, remove: Sequence[str]) -> None:
        """Raises Conflict when a path that the commit `key` is to remove is not live."""
        dead = sorted(set(remove) - {file.path for file in self.files()}) if remove else []
        if dead:
            raise Conflict(
                f"{key}: cannot remove {dead[0]}: it is not live (any more); run it again"
            )

    def append(
        self,
        key: str,
        add: Sequence[LiveFile],
        remove: Sequence[str] = (),
        operation: str = "publish",
        code_version: str = "",
        config_sha256: str = "",
        meta: Mapping[str, str] | None = None,
        since: int | None = None,
        replace: Mapping[str, LiveFile | None] | None = None,
        seen: int | None = None,
        after: int | None = None,
    ) -> Commit:
        """Commits `add`, `remove` and `replace` under `key` at the next free version.

        Raises AlreadyPublished when `key` has a commit, Conflict when a removed path is not live or
        an added one is, or when a commit after version `since` touches a table of `add`: what the
        rows were checked against would be out of date. Likewise ForgottenMeanwhile when prompts
        were forgotten after version `seen`, and Conflict for any commit at all after `after`. A
        lost race for a version looks at the ledger again and tries the next.
        """
        while True:
            version = self.head() + 1
            if self.find(key):
                raise AlreadyPublished(key)
            self.refuse_dead(key, remove)
            self._refuse_twice(key, add)
            self._refuse_outdated(key, add, since)
            self._refuse_later(key, seen, after)
            commit = Commit(
                version=version,
                key=key,
                operation=operation,
                committed_at=datetime.now(UTC),
                code_version=code_version,
                config_sha256=config_sha256,
                add=tuple(add),
                remove=tuple(remove),
                meta=dict(meta or {}),
                replace=dict(replace or {}),
            )
            try:
                self._files.create(commit)
            except AlreadyExists:
                continue
            return commit

    def _look(self, as_of: int | None) -> _Look:
        """Commits and live files of one moment: two looks would miss what came in between."""
        commits = self.commits(as_of)
        replaced = Replacements(self._files.known)
        self._refuse_vacuumed(len(commits) - 1, replaced)
        return _Look(commits, live_files(commits, replaced), replaced)

    def _refuse_twice(self, key: str, add: Sequence[LiveFile]) -> None:
        live = {file.path for file in self.files()}
        twice = sorted(file.path for file in add if file.path in live)
        if twice:
            raise Conflict(f"{key}: cannot add {twice[0]}: it is live already")

    def _refuse_outdated(self, key: str, add: Sequence[LiveFile], since: int | None) -> None:
        tables = {file.table for file in add}
        for commit in [] if since is None else self.commits()[since + 1 :]:
            touched = sorted(tables & {file.table for file in commit.add})
            if commit.replace:  # of prompts, which no table is without
                touched = sorted(tables)
            if touched:
                raise Conflict(
                    f"{key}: {commit.key} has changed {touched[0]} since version {since}"
                )

    def _refuse_later(self, key: str, seen: int | None, after: int | None) -> None:
        if seen is not None:
            for commit in self._files.known[seen + 1 :]:
                if commit.operation == FORGET:
                    raise ForgottenMeanwhile(
                        f"{key}: {commit.key} has forgotten prompts since version {seen}"
                    )
        if after is not None and len(self._files.known) - 1 > after:
            newest = self._files.known[-1]
            raise Conflict(f"{key}: {newest.key} was committed since version {after}")

    def _refuse_vacuumed(self, version: int, replaced: Replacements) -> None:
        vacuum = vacuumed_by(self._files.known, version, replaced)
        if vacuum is not None:
            raise Vacuumed(
                f"{self._root}: version {version} cannot be read since "
                f"{vacuum.committed_at:%Y-%m-%d %H:%M} UTC: its files were deleted by a vacuum "
                f"(version {vacuum.version}); the oldest whole version is {vacuum.meta[OLDEST]}"
            )
