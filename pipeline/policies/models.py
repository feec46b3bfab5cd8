"""Trained models of a warehouse: `policies/` and `reward-models/`, a folder for each revision.

In a folder they lie in the warehouse itself. For a warehouse on S3 every file is uploaded under the
same path; a machine that needs a model downloads it once into its own folder of that warehouse,
checks it and renames it in, so a folder under its revision is always whole. Not here: which
revision is wanted (policies.py), the files' contents (training).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from training.revision import policy_revision
from warehouse.errors import AlreadyExists, CorruptFile, StoreError
from warehouse.files import file_sha256, whole_folder
from warehouse.handle import Warehouse
from warehouse.ledger.evidence import Problem
from warehouse.store.base import Store
from warehouse.store.local_cache import local_folder
from warehouse.store.s3_address import display_name, is_remote

POLICIES, REWARD_MODELS = "policies", "reward-models"
# Under this name a commit's `meta` lists the files of the policy it made.
FILES = "policy_files"


def models_folder(root: str, kind: str) -> Path:
    """Where this machine keeps the warehouse's models of one kind, or its copies of them."""
    return local_folder(root) / kind


def models_address(root: str, kind: str) -> str:
    """The place to show a person: a folder, or a prefix of the bucket."""
    return f"{display_name(root)}/{kind}" if is_remote(root) else str(models_folder(root, kind))


def keep_model(root: str, kind: str, made: Path, revision: str) -> Path:
    """Moves the model at `made` to the folder of its revision and, for S3, uploads it; the folder.

    Where the same training has put it before, that stands and `made` is removed.
    """
    home = models_folder(root, kind) / revision
    if home.exists():
        shutil.rmtree(made)
    else:
        home.parent.mkdir(parents=True, exist_ok=True)
        made.rename(home)
    if is_remote(root):
        store = Warehouse.open(root).store
        for name in _names(home):
            _upload(store, f"{kind}/{revision}/{name}", home / name)
    return home


def files_record(folder: Path) -> str:
    """JSON: every file below `folder` -> its SHA-256 in hex."""
    return json.dumps({name: file_sha256(folder / name) for name in _names(folder)})


def find_model(root: str, kind: str, revision: str) -> Path | None:
    """The folder of the model on this machine, downloaded if need be; None where there is none.

    Raises CorruptFile where what is stored is not this revision, or not what its commit lists.
    """
    home = models_folder(root, kind) / revision
    if home.is_dir() or not is_remote(root):
        return home if home.is_dir() else None
    warehouse = Warehouse.open(root, read_only=True)
    prefix = f"{kind}/{revision}/"
    keys = warehouse.store.list(prefix)
    if not keys:
        return None
    with contextlib.suppress(FileExistsError), whole_folder(home) as fresh:  # another was faster
        for key in keys:
            path = fresh / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            warehouse.store.get_file(key, path)
        _check(f"{display_name(root)}/{prefix}", fresh, revision, _listed(warehouse, revision))
    return home


def _upload(store: Store, key: str, path: Path) -> None:
    """Creates `key`; where a killed run has left it with other bytes, those are taken over.

    They belong to the same weights (the revision says so), and what is stored once stays.
    """
    try:
        store.put_file(key, path)
    except AlreadyExists:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".stored-") as folder:
            stored = Path(folder) / path.name
            store.get_file(key, stored)
            if file_sha256(stored) != file_sha256(path):
                stored.replace(path)


def _check(place: str, folder: Path, revision: str, listed: Mapping[str, str]) -> None:
    try:
        found = policy_revision(folder)
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{place} is no whole model: {error}; upload it again") from error
    if found != revision:
        raise CorruptFile(f"{place} holds model {found}; restore it from a backup")
    for name, sha256 in listed.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise CorruptFile(
                f"{place}{name} is missing or not what the training's commit lists; restore it "
                "from a backup"
            )


def _listed(warehouse: Warehouse, revision: str) -> dict[str, str]:
    """What the commit that made this policy says of its files; empty where no night made it."""
    for commit in warehouse.ledger.commits():
        if commit.meta.get("policy_revision") == revision and FILES in commit.meta:
            listed: dict[str, str] = json.loads(commit.meta[FILES])
            return listed
    return {}


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


_CHUNK = 8 << 20


def check_policies(root: str) -> tuple[list[Problem], int]:
    """What is wrong with the policies that trainings name and that are there; how many those are.

    Each is read once, whole.
    """
    warehouse = Warehouse.open(root, read_only=True)
    store, (commits, _) = warehouse.store, warehouse.ledger.damage()
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
