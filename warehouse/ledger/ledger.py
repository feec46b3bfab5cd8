"""The ledger: an append-only list of commits that says which files make up the warehouse.

A commit is one JSON file `_ledger/0000000042.json`, created once and never changed. It carries the
key of the work it did (`round=17/rewards`); a second commit under a key is refused, so running the
same work again is safe. The live files at a version are the fold of all commits up to it: a glob
never defines a table. Creating the commit file is the only commit point; what a killed publish
leaves before it are orphans that nobody sees.
Not here: what commits add up to (commits.py), writing data files (publish.py) or reading them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from warehouse.errors import (
    AlreadyExists,
    AlreadyPublished,
    Conflict,
    CorruptFile,
    ForgottenMeanwhile,
    Vacuumed,
    WarehouseError,
)
from warehouse.ledger.commits import (
    FORGET,
    OLDEST,
    Commit,
    LiveFile,
    Replacements,
    dead_paths,
    decode,
    encode,
    live_files,
    vacuumed_by,
    writers,
)
from warehouse.schemas import SCHEMA_VERSION
from warehouse.store.base import Store

_FOLDER = "_ledger/"
_NAME = re.compile(r"_ledger/(\d{10})\.json")
_RECENT = 100  # commits: who is further behind reads the ledger anew
# Root -> the bytes of the newest commit read, and all commits up to it.
_REMEMBERED: dict[str, tuple[bytes, list[Commit]]] = {}


class Snapshot(NamedTuple):
    """A version: its commits, the files live at it; path -> the commit that wrote its rows."""

    commits: list[Commit]
    files: list[LiveFile]
    writers: dict[str, Commit]


class Ledger:
    """The commits of one store. Commits are immutable, so those once read are remembered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: list[Commit] = []

    def commits(self, as_of: int | None = None) -> list[Commit]:
        """All commits up to version `as_of`, oldest first.

        Raises CorruptFile for a gap, a stray name or unreadable JSON, WarehouseError for an `as_of`
        that the ledger has not reached, and for files of a newer schema than this code knows.
        """
        if as_of is not None and 0 <= as_of < len(self._known):
            return self._known[: as_of + 1]  # what is known needs no listing, a request on S3
        names = self._store.list(_FOLDER)
        if not self._known:
            self._known = self._remembered(names)
        for version, name in enumerate(names):
            number = _number(name)
            if not number:
                raise CorruptFile(f"{self._store.root}: {name} does not belong into the ledger")
            if int(number) != version:
                raise CorruptFile(
                    f"{self._store.root}: {_name(version)} is missing from the ledger; restore it "
                    "from a backup, the versions after it cannot be read without it"
                )
        new = range(len(self._known), len(names))
        for version, data in zip(new, self._store.get_many(names[new.start :]), strict=True):
            commit = self._decode(version, data)
            _refuse_newer(f"{self._store.root}: {_name(version)}", commit)
            self._known.append(commit)
        if len(new):
            _REMEMBERED[self._store.root] = (data, list(self._known))
        if as_of is None:
            return list(self._known)
        if not -1 <= as_of < len(self._known):
            raise WarehouseError(
                f"{self._store.root}: no version {as_of}; the last one is {len(self._known) - 1}"
            )
        return self._known[: as_of + 1]

    def _remembered(self, names: Sequence[str]) -> list[Commit]:
        """What this process has read of the ledger before, if its newest commit still stands there.

        A night opens its ledger dozens of times, and a year has thousands of commits.
        """
        last, commits = _REMEMBERED.get(self._store.root, (b"", []))
        name = _name(len(commits) - 1)
        if not commits or name not in names[-_RECENT:] or self._store.get(name) != last:
            return []
        return list(commits)

    def damage(self) -> tuple[list[Commit], list[str]]:
        """The commits that can be read, and what is wrong with the others, one line each."""
        names = self._store.list(_FOLDER)
        wrong = [f"{name} does not belong into the ledger" for name in names if not _number(name)]
        numbers = {int(number) for name in names if (number := _number(name))}
        commits, expected = [], 0
        for version in sorted(numbers):
            if version > expected:
                more = f", up to {_name(version - 1)}" if version > expected + 1 else ""
                wrong.append(f"{_name(expected)} is missing{more}; restore it from a backup")
            expected = version + 1
            try:
                commits.append(self._decode(version, self._store.get(_name(version))))
            except CorruptFile as error:
                wrong.append(str(error).removeprefix(f"{self._store.root}: "))
        return commits, wrong

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
        commits = self.commits(as_of)
        replaced = Replacements(self._known)
        self._refuse_vacuumed(len(commits) - 1, replaced)
        return [
            file
            for file in live_files(commits, replaced).values()
            if table in (None, file.table) and (rounds is None or file.round in rounds)
        ]

    def is_dead(self, path: str) -> bool:
        """Whether the ledger says by now that a forget or a vacuum may have deleted this file."""
        return path in dead_paths(self.commits())

    def snapshot(self, as_of: int | None = None) -> Snapshot:
        """Everything about version `as_of`, from one look at the store.

        Raises Vacuumed for a version that has lost files to a vacuum.
        """
        commits = self.commits(as_of)
        replaced = Replacements(self._known)
        self._refuse_vacuumed(len(commits) - 1, replaced)
        files = list(live_files(commits, replaced).values())
        return Snapshot(commits, files, writers(commits, replaced))

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
        commits = self.commits(as_of)
        missing = sorted(set(keys) - {commit.key for commit in commits})
        if missing:
            raise WarehouseError(f"{self._store.root}: nothing is published under {missing[0]}")
        replaced = Replacements(self._known)
        paths = {
            replaced.path(file.path)
            for commit in commits
            if commit.key in keys or commit.meta.get("amends") in keys
            for file in commit.add
        }
        return [file for file in self.files(as_of, table, rounds) if file.path in paths]

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
                self._store.put(_name(version), encode(commit))
            except AlreadyExists:
                continue
            return commit

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
            for commit in self._known[seen + 1 :]:
                if commit.operation == FORGET:
                    raise ForgottenMeanwhile(
                        f"{key}: {commit.key} has forgotten prompts since version {seen}"
                    )
        if after is not None and len(self._known) - 1 > after:
            newest = self._known[-1]
            raise Conflict(f"{key}: {newest.key} was committed since version {after}")

    def _refuse_vacuumed(self, version: int, replaced: Replacements) -> None:
        vacuum = vacuumed_by(self._known, version, replaced)
        if vacuum is not None:
            raise Vacuumed(
                f"{self._store.root}: version {version} cannot be read since "
                f"{vacuum.committed_at:%Y-%m-%d %H:%M} UTC: its files were deleted by a vacuum "
                f"(version {vacuum.version}); the oldest whole version is {vacuum.meta[OLDEST]}"
            )

    def _decode(self, version: int, data: bytes) -> Commit:
        try:
            return decode(data, version)
        except ValueError as error:
            raise CorruptFile(f"{self._store.root}: {_name(version)} {error}") from error


def _number(name: str) -> str:
    """The digits in a commit file's name, nothing for any other name."""
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def _refuse_newer(place: str, commit: Commit) -> None:
    """Columns unknown here would be dropped without a word, and again by what is written on top."""
    newest = max((file.schema_version for file in commit.add), default=0)
    if newest > SCHEMA_VERSION:
        raise WarehouseError(
            f"{place} holds files of schema version {newest}, this roundhouse reads up to "
            f"{SCHEMA_VERSION}; update roundhouse"
        )


def _name(version: int) -> str:
    return f"{_FOLDER}{version:010d}.json"
