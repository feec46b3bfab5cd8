"""Evidence: is every file of a version there, whole, and what the ledger says it is?

A flipped bit passes in silence through DuckDB and, where a page has no checksum, through pyarrow
too. So the ledger holds size and sha256 of every file, and whoever must be sure compares them:
`verify` all files of a version, training and export those that they are about to read.
Not here: repair. A damaged file is restored from a backup: its name and sha256 are in the ledger.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import Conflict, CorruptFile, MissingFile, MissingObject, StoreError
from warehouse.ledger.commits import LiveFile, dead_paths
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store.base import Store

_CHUNK = 8 << 20
_THREADS = 8


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `path` is its key in the store."""

    path: str
    kind: str
    detail: str


def check_files(
    store: Store, files: Sequence[LiveFile], progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """What is wrong with these files, by path; each is read once, whole, in parallel."""
    total, done, lock = sum(file.bytes for file in files), 0, threading.Lock()

    def check(file: LiveFile) -> Problem | None:
        nonlocal done
        problem = check_file(store, file)
        with lock:
            done += file.bytes
            if progress is not None:
                progress(done, total)
        return problem

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(check, files))
    return sorted((problem for problem in found if problem), key=lambda problem: problem.path)


def verify_files(store: Store, files: Sequence[LiveFile]) -> None:
    """Raises CorruptFile naming every file that is not what the ledger says it is.

    Conflict where a file of an older look at the ledger has been deleted since by its word.
    """
    problems = check_files(store, files)
    if gone := _deleted_since(Ledger(store), problems):
        place = f"{store.root}/{gone[0]}"
        raise Conflict(f"{place}: deleted meanwhile by a forget or a vacuum; run again")
    if problems:
        shown = "; ".join(f"{store.root}/{x.path}: {x.kind}: {x.detail}" for x in problems)
        raise CorruptFile(f"{shown}; restore it from a backup (`roundhouse verify` lists all)")


def _deleted_since(ledger: Ledger, problems: Sequence[Problem]) -> list[str]:
    missing = [problem.path for problem in problems if problem.kind == "missing"]
    dead = dead_paths(ledger.commits()) if missing else set()
    return [path for path in missing if path in dead]


def read_verified(store: Store, file: LiveFile) -> bytes:
    """The bytes of `file`, fetched once and held against the ledger.

    Raises CorruptFile, and MissingFile of its kinds.
    """
    place = f"{store.root}/{file.path}"
    try:
        data = store.get(file.path)
    except MissingObject as error:
        raise MissingFile(place, file.path, error) from error
    except OSError as error:
        raise CorruptFile(f"{place}: damaged or missing: {error}") from error
    problem = _wrong_bytes(file, len(data), hashlib.sha256(data).hexdigest())
    if problem is not None:
        raise CorruptFile(f"{store.root}/{file.path}: {problem.kind}: {problem.detail}")
    return data


@contextmanager
def naming(store: Store, file: LiveFile) -> Iterator[None]:
    """What goes wrong while `file` is read becomes MissingFile or CorruptFile, which name it."""
    place = f"{store.root}/{file.path}"
    try:
        yield
    except MissingObject as error:
        raise MissingFile(place, file.path, error) from error
    except (OSError, StoreError, pa.ArrowException) as error:
        raise CorruptFile(f"{place}: damaged or missing: {error}") from error


def read_rows(store: Store, file: LiveFile) -> pa.Table:
    """All rows of `file` with the columns it has, by evidence: damage is never copied.

    Raises CorruptFile naming it.
    """
    return pq.ParquetFile(pa.BufferReader(read_verified(store, file))).read()


def check_file(store: Store, file: LiveFile) -> Problem | None:
    """What is wrong with one file, or None: there, size, sha256, rows, schema, in this order."""
    try:
        with store.open(file.path) as source:
            size = source.size()
            if size != file.bytes:
                return _wrong_bytes(file, size, "")
            digest = hashlib.sha256()
            while block := source.read_buffer(_CHUNK):
                digest.update(block)
            problem = _wrong_bytes(file, size, digest.hexdigest())
            if problem is None:
                source.seek(0)
                problem = _wrong_content(file, pq.ParquetFile(source))
            return problem
    except (MissingObject, FileNotFoundError):
        return Problem(file.path, "missing", "there is no such file")
    except (OSError, StoreError, pa.ArrowException) as error:
        return Problem(file.path, "unreadable", str(error))


def _wrong_bytes(file: LiveFile, size: int, sha256: str) -> Problem | None:
    if size != file.bytes:
        kind = "truncated" if size < file.bytes else "too long"
        return Problem(file.path, kind, f"{size} bytes, the ledger has {file.bytes}")
    if sha256 != file.sha256:
        detail = f"its sha256 is {sha256[:12]}..., the ledger has {file.sha256[:12]}..."
        return Problem(file.path, "damaged", detail)
    return None


def _wrong_content(file: LiveFile, parquet: pq.ParquetFile) -> Problem | None:
    """Rows and schema: what a right sha256 of a wrongly published file would hide."""
    if parquet.metadata.num_rows != file.rows:
        detail = f"{parquet.metadata.num_rows} rows, the ledger has {file.rows}"
        return Problem(file.path, "wrong rows", detail)
    if file.table not in TABLES:
        return Problem(file.path, "unknown table", f"there is no table {file.table}")
    schema = TABLES[file.table].schema
    types = {field.name: field.type for field in schema}
    found = {field.name: field.type for field in parquet.schema_arrow}
    wrong = sorted(name for name, kind in found.items() if types.get(name) != kind)
    wrong += sorted(f.name for f in schema if not f.nullable and f.name not in found)
    if wrong:
        return Problem(file.path, "wrong schema", f"columns {', '.join(wrong)}")
    return None
