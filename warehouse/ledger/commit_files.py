"""Commit files: `_ledger/0000000042.json`, each created once and never changed.

Reading them is a listing and what is new since the last look; what is damaged is named. Creating
one is the only commit point of the warehouse. Not here: what a commit is (commits.py), which one
may be appended (ledger.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from warehouse.errors import CorruptFile, WarehouseError
from warehouse.ledger.commits import Commit, decode, encode
from warehouse.schemas import SCHEMA_VERSION
from warehouse.store.base import Store

_FOLDER = "_ledger/"
_NAME = re.compile(r"_ledger/(\d{10})\.json")
_RECENT = 100  # commits: who is further behind reads the ledger anew
# Root -> the bytes of the newest commit read, and all commits up to it.
_REMEMBERED: dict[str, tuple[bytes, list[Commit]]] = {}


class CommitFiles:
    """The commit files of one store. Commits are immutable, so those once read are `known`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.known: list[Commit] = []

    def read(self, as_of: int | None = None) -> list[Commit]:
        """All commits up to version `as_of`, oldest first.

        Raises CorruptFile for a gap, a stray name or unreadable JSON, WarehouseError for an `as_of`
        that the ledger has not reached, and for files of a newer schema than this code knows.
        """
        if as_of is not None and 0 <= as_of < len(self.known):
            return self.known[: as_of + 1]  # what is known needs no listing, a request on S3
        names = self._store.list(_FOLDER)
        if not self.known:
            self.known = self._remembered(names)
        for version, name in enumerate(names):
            number = _number(name)
            if not number:
                raise CorruptFile(f"{self._store.root}: {name} does not belong into the ledger")
            if int(number) != version:
                raise CorruptFile(
                    f"{self._store.root}: {_name(version)} is missing from the ledger; restore it "
                    "from a backup, the versions after it cannot be read without it"
                )
        new = range(len(self.known), len(names))
        for version, data in zip(new, self._store.get_many(names[new.start :]), strict=True):
            commit = self._decode(version, data)
            _refuse_newer(f"{self._store.root}: {_name(version)}", commit)
            self.known.append(commit)
        if len(new):
            _REMEMBERED[self._store.root] = (data, list(self.known))
        if as_of is None:
            return list(self.known)
        if not -1 <= as_of < len(self.known):
            raise WarehouseError(
                f"{self._store.root}: no version {as_of}; the last one is {len(self.known) - 1}"
            )
        return self.known[: as_of + 1]

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

    def create(self, commit: Commit) -> None:
        """Makes the commit's file. Raises AlreadyExists where its version is taken."""
        self._store.put(_name(commit.version), encode(commit))

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
