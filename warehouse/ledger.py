"""The ledger: an append-only list of commits that says which files make up the warehouse.

A commit is one JSON file `_ledger/0000000042.json`, created once and never changed. It carries the
key of the work it did (`round=17/rewards`); a second commit under a key is refused, so running the
same work again is safe. The live files at a version are the fold of all commits up to it: a glob
never defines a table. Creating the commit file is the only commit point; what a killed publish
leaves before it are orphans that nobody sees.
Not here: writing data files (publish.py) or reading them (catalog.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from warehouse.schemas import SCHEMA_VERSION
from warehouse.store import AlreadyExists, Store, WarehouseError

_FORMAT = 1
_FOLDER = "_ledger/"
_NAME = re.compile(r"_ledger/(\d{10})\.json")


class AlreadyPublished(WarehouseError):
    """The ledger has a commit under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is published already; a key is committed once")
        self.key = key


class Conflict(WarehouseError):
    """A commit does not fit what is live: a file it removes or adds, a table that has changed."""


class CorruptFile(WarehouseError):
    """A file of the warehouse is missing or damaged; the message names it."""


@dataclass(frozen=True)
class LiveFile:
    """One Parquet file of one table; `path` is its key in the store, `bytes` its size."""

    table: str
    round: int | None
    path: str
    rows: int
    bytes: int
    sha256: str
    schema_version: int


@dataclass(frozen=True)
class Commit:
    """One version of the warehouse: the files it adds and the paths it removes."""

    version: int
    key: str
    operation: str
    committed_at: datetime
    code_version: str
    config_sha256: str
    add: tuple[LiveFile, ...]
    remove: tuple[str, ...]
    meta: dict[str, str] = field(default_factory=dict)


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
        names = self._store.list(_FOLDER)
        for version, name in enumerate(names):
            match = _NAME.fullmatch(name)
            if not match:
                raise CorruptFile(f"{self._store.root}: {name} does not belong into the ledger")
            if int(match[1]) != version:
                raise CorruptFile(
                    f"{self._store.root}: {_name(version)} is missing from the ledger; restore it "
                    "from a backup, the versions after it cannot be read without it"
                )
        for version in range(len(self._known), len(names)):
            self._known.append(self._read(version))
        if as_of is None:
            return list(self._known)
        if not -1 <= as_of < len(self._known):
            raise WarehouseError(
                f"{self._store.root}: no version {as_of}; the last one is {len(self._known) - 1}"
            )
        return self._known[: as_of + 1]

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
        """The files live at version `as_of`, in the order of their commits."""
        live: dict[str, LiveFile] = {}
        for commit in self.commits(as_of):
            for path in commit.remove:
                live.pop(path, None)
            live.update((file.path, file) for file in commit.add)
        return [
            file
            for file in live.values()
            if table in (None, file.table) and (rounds is None or file.round in rounds)
        ]

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
        paths = {
            file.path
            for commit in commits
            if commit.key in keys or commit.meta.get("amends") in keys
            for file in commit.add
        }
        return [file for file in self.files(as_of, table, rounds) if file.path in paths]

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
    ) -> Commit:
        """Commits `add` and `remove` under `key` at the next free version.

        Raises AlreadyPublished when `key` has a commit, Conflict when a removed path is not live or
        an added one is, or when a commit after version `since` touches a table of `add`: what the
        rows were checked against would be out of date. A lost race for a version looks at the
        ledger again and tries the next.
        """
        while True:
            version = self.head() + 1
            if self.find(key):
                raise AlreadyPublished(key)
            self._refuse_conflicts(key, add, remove)
            self._refuse_outdated(key, add, since)
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
            )
            try:
                self._store.put(_name(version), _encode(commit))
            except AlreadyExists:
                continue
            return commit

    def _refuse_conflicts(self, key: str, add: Sequence[LiveFile], remove: Sequence[str]) -> None:
        live = {file.path for file in self.files()}
        dead = sorted(set(remove) - live)
        if dead:
            raise Conflict(f"{key}: cannot remove {dead[0]}: it is not live")
        twice = sorted(file.path for file in add if file.path in live)
        if twice:
            raise Conflict(f"{key}: cannot add {twice[0]}: it is live already")

    def _refuse_outdated(self, key: str, add: Sequence[LiveFile], since: int | None) -> None:
        tables = {file.table for file in add}
        for commit in [] if since is None else self.commits()[since + 1 :]:
            touched = sorted(tables & {file.table for file in commit.add})
            if touched:
                raise Conflict(
                    f"{key}: {commit.key} has changed {touched[0]} since version {since}"
                )

    def _read(self, version: int) -> Commit:
        name = _name(version)
        try:
            fields = json.loads(self._store.get(name))
            if fields.pop("format") != _FORMAT:
                raise CorruptFile(f"{self._store.root}: {name} was written by a newer version")
            fields["committed_at"] = datetime.fromisoformat(fields["committed_at"])
            fields["add"] = tuple(LiveFile(**file) for file in fields["add"])
            fields["remove"] = tuple(fields["remove"])
            commit = Commit(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFile(f"{self._store.root}: {name} is no commit: {error}") from error
        if commit.version != version:
            raise CorruptFile(f"{self._store.root}: {name} says it is version {commit.version}")
        _refuse_newer(f"{self._store.root}: {name}", commit)
        return commit


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


def _encode(commit: Commit) -> bytes:
    fields = asdict(commit) | {"committed_at": commit.committed_at.isoformat()}
    return (json.dumps({"format": _FORMAT, **fields}, indent=1) + "\n").encode()
