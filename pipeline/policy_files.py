"""Are the policies that nights trained still the ones they were?

A training's commit lists the files of its policy with their sha256; where an older one does not,
the revision, which is a hash of weights and tokenizer, must still come out. A policy that is not
there at all is no problem: old ones are deleted to make room, and what trained them is still in the
tables. Not here: where a policy lies (model_store.py), what a revision is (training/revision.py).
"""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from pipeline.model_store import FILES, POLICIES
from training.revision import policy_revision
from warehouse.ledger import Ledger
from warehouse.store import Store, StoreError, open_store
from warehouse.verification import Problem

_CHUNK = 8 << 20


def check_policies(root: str) -> tuple[list[Problem], int]:
    """What is wrong with the policies that trainings name and that are there; how many those are.

    Each is read once, whole.
    """
    store = open_store(root, read_only=True)
    commits, _ = Ledger(store).damage()
    listed = {
        revision: json.loads(commit.meta.get(FILES, "{}"))
        for commit in commits
        if (revision := commit.meta.get("policy_revision"))
    }
    problems, count = [], 0
    for revision, files in sorted(listed.items()):
        prefix = f"{POLICIES}/{revision}/"
        there = set(store.list(prefix))
        count += bool(there)
        if there and files:
            found = [
                _check_file(store, prefix + name, sha256, there) for name, sha256 in files.items()
            ]
            problems += [problem for problem in found if problem is not None]
        elif there:
            problems += _check_revision(store, revision)
    return problems, count


def _check_file(store: Store, key: str, sha256: str, there: set[str]) -> Problem | None:
    if key not in there:
        return Problem(key, "missing", "the training's commit lists it")
    digest = hashlib.sha256()
    try:
        with store.open(key) as source:
            while block := source.read_buffer(_CHUNK):
                digest.update(block)
    except (OSError, StoreError, pa.ArrowException) as error:
        return Problem(key, "unreadable", str(error))
    found = digest.hexdigest()
    if found == sha256:
        return None
    return Problem(
        key, "damaged", f"its sha256 is {found[:12]}..., the ledger has {sha256[:12]}..."
    )


def _check_revision(store: Store, revision: str) -> list[Problem]:
    """For a policy whose commit lists no files, as all did before warehouses on S3."""
    path = f"{POLICIES}/{revision}"
    folder = store.local_path(path)
    if folder is None:
        return []
    try:
        found = policy_revision(folder)
    except (OSError, ValueError, KeyError) as error:
        return [Problem(path, "damaged", str(error))]
    if found == revision:
        return []
    return [Problem(path, "damaged", f"weights and tokenizer hash to {found} now")]
