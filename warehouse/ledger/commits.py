"""The records of the ledger, and what they add up to: which files are live at a version.

A commit adds and removes files from its version on. What it *replaces* it replaces at every
version, older ones included: so `forget` takes a prompt out of the past, and time travel goes on
without it. Pure functions over a list of commits.
Not here: commit files and the race for the next version (ledger.py).
"""

from __future__ import annotations

import functools
import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

_FORMAT = 1
VACUUM = "vacuum"
FORGET = "forget"
OLDEST = "oldest"  # in the meta of a vacuum's commit: the oldest version it kept whole


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
    """One version of the warehouse: the files it adds and the paths it removes.

    `replace`: old path -> the file that stands in its place at every version; None: no rows left.
    """

    version: int
    key: str
    operation: str
    committed_at: datetime
    code_version: str
    config_sha256: str
    add: tuple[LiveFile, ...]
    remove: tuple[str, ...]
    meta: dict[str, str] = field(default_factory=dict)
    replace: dict[str, LiveFile | None] = field(default_factory=dict)


def encode(commit: Commit) -> bytes:
    """The commit as the JSON of its file."""
    fields = asdict(commit) | {"committed_at": commit.committed_at.isoformat()}
    if not commit.replace:
        del fields["replace"]
    return (json.dumps({"format": _FORMAT, **fields}, indent=1) + "\n").encode()


@functools.lru_cache(maxsize=16_384)  # a night opens its ledger dozens of times
def decode(data: bytes, version: int) -> Commit:
    """The commit of version `version` out of its file's bytes. Raises ValueError saying why not.

    The same bytes give the same object: nobody may change it.
    """
    try:
        fields = json.loads(data)
        is_newer = fields.pop("format") != _FORMAT
        if not is_newer:
            replace = fields.pop("replace", {}).items()
            commit = Commit(
                **fields
                | {
                    "committed_at": datetime.fromisoformat(fields["committed_at"]),
                    "add": tuple(LiveFile(**file) for file in fields["add"]),
                    "remove": tuple(fields["remove"]),
                    "replace": {old: new and LiveFile(**new) for old, new in replace},
                }
            )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no commit: {error}") from error
    if is_newer:
        raise ValueError("was written by a newer version of roundhouse")
    if commit.version != version:
        raise ValueError(f"says it is version {commit.version}")
    return commit


class Replacements:
    """What stands in the place of replaced files, after all commits of a ledger."""

    def __init__(self, commits: Iterable[Commit]) -> None:
        self._by_path: dict[str, LiveFile | None] = {}
        for commit in commits:
            self._by_path.update(commit.replace)

    @property
    def dead(self) -> set[str]:
        """Paths that no version reads any more."""
        return set(self._by_path)

    def file(self, file: LiveFile) -> LiveFile | None:
        """The file that is read instead of `file` (itself, if none is); None: nothing is."""
        found: LiveFile | None = file
        while found is not None and found.path in self._by_path:
            found = self._by_path[found.path]
        return found

    def path(self, path: str) -> str:
        """The same of a path; one without a successor stays."""
        while (found := self._by_path.get(path)) is not None:
            path = found.path
        return path


def live_files(commits: Iterable[Commit], replaced: Replacements) -> dict[str, LiveFile]:
    """Path -> file of what is live after `commits`, in their order."""
    live: dict[str, LiveFile] = {}
    for commit in commits:
        for path in commit.remove:
            live.pop(replaced.path(path), None)
        for added in commit.add:
            file = replaced.file(added)
            if file is not None:
                live[file.path] = file
    return live


def files_ever(commits: Iterable[Commit], replaced: Replacements) -> dict[str, LiveFile]:
    """Path -> file of all that any version reads or has read, replaced files left out."""
    added = (replaced.file(file) for commit in commits for file in commit.add)
    return {file.path: file for file in added if file is not None}


def writers(commits: Iterable[Commit], replaced: Replacements) -> dict[str, Commit]:
    """Path of today -> the commit that published the rows, also where forget wrote them anew."""
    return {replaced.path(file.path): commit for commit in commits for file in commit.add}


def origins(commits: Iterable[Commit]) -> dict[str, str]:
    """Path of today -> key whose work the file is: of the commit, or of the one it amends."""
    every = list(commits)
    replaced = Replacements(every)
    return {
        replaced.path(file.path): commit.meta.get("amends", commit.key)
        for commit in every
        for file in commit.add
    }


def unreadable_below(
    commits: Sequence[Commit], oldest: int, replaced: Replacements
) -> dict[str, LiveFile]:
    """The files that only versions before `oldest` read: what a vacuum deletes."""
    kept = live_files(commits[: oldest + 1], replaced)
    earlier = files_ever(commits[: oldest + 1], replaced)
    return {path: file for path, file in earlier.items() if path not in kept}


def taken_files(commits: Sequence[Commit], replaced: Replacements) -> dict[str, LiveFile]:
    """Path -> file of what vacuums have recorded as deleted."""
    oldest = max((int(c.meta[OLDEST]) for c in commits if c.operation == VACUUM), default=0)
    return unreadable_below(commits, oldest, replaced)


def dead_paths(commits: Sequence[Commit]) -> set[str]:
    """Paths that are dead by the word of the ledger: replaced by a forget, taken by a vacuum."""
    replaced = Replacements(commits)
    return replaced.dead | taken_files(commits, replaced).keys()


def vacuumed_by(commits: Sequence[Commit], version: int, replaced: Replacements) -> Commit | None:
    """The first vacuum that deleted a file of `version`, None for a version that is whole."""
    vacuums, deepest = [], version
    for commit in commits:
        if commit.operation == VACUUM and (oldest := int(commit.meta[OLDEST])) > deepest:
            vacuums.append(commit)
            deepest = oldest
    if not vacuums:
        return None
    wanted = live_files(commits[: version + 1], replaced).keys()

    def has_taken(vacuum: Commit) -> bool:
        return not wanted <= live_files(commits[: int(vacuum.meta[OLDEST]) + 1], replaced).keys()

    # What a vacuum has taken, every later and deeper one has taken as well.
    first = bisect_left(vacuums, True, key=has_taken)
    return vacuums[first] if first < len(vacuums) else None
