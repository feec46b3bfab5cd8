"""Are the policies that nights trained still the ones they were? By the revision, a hash of them.

A policy that is not there is no problem: old ones are deleted to make room, and what trained them
is still in the tables. Not here: where a policy lies (policies.py), what a revision is
(training/revision.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.revision import policy_revision
from warehouse.ledger import Ledger
from warehouse.store import Store, open_store
from warehouse.verification import Problem


def check_policies(root: str) -> tuple[list[Problem], int]:
    """What is wrong with the policies that trainings name and that are there; how many those are.

    Each is read once, whole; from S3 into a temporary folder.
    """
    store = open_store(root, read_only=True)
    commits, _ = Ledger(store).damage()
    named = {c.meta["policy_revision"] for c in commits if "policy_revision" in c.meta}
    there = {name: keys for name in sorted(named) if (keys := store.list(f"policies/{name}/"))}
    found = [_check(store, name, keys) for name, keys in there.items()]
    return [problem for problem in found if problem is not None], len(there)


def _check(store: Store, revision: str, keys: list[str]) -> Problem | None:
    path = f"policies/{revision}"
    try:
        with _folder(store, path, keys) as folder:
            found = policy_revision(folder)
    except (OSError, ValueError, KeyError) as error:
        return Problem(path, "damaged", str(error))
    if found != revision:
        return Problem(path, "damaged", f"weights and tokenizer hash to {found} now")
    return None


@contextmanager
def _folder(store: Store, path: str, keys: list[str]) -> Iterator[Path]:
    """The policy's own files (subfolders, like the critic's, do not count) on this machine."""
    local = store.local_path(path)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as place:
        for key in keys:
            name = key.removeprefix(f"{path}/")
            if "/" not in name:
                store.get_file(key, Path(place) / name)
        yield Path(place)
