"""A warehouse, opened once and handed down: where its bytes lie, its ledger, its rows.

A command or a stage process opens one at its beginning; whatever it calls reads through it. The
ledger behind it is looked at anew on every question, so commits of other processes are seen, and
only what is new is read. Not here: writing (publish.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from warehouse.ledger.commits import LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.reading import Wanted, read_live
from warehouse.store import open_store
from warehouse.store.base import Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Warehouse:
    """An opened warehouse; `as_of` is the version that is read, None the newest at each look."""

    root: str
    store: Store
    ledger: Ledger
    as_of: int | None = None

    @classmethod
    def open(
        cls, root: str | Path, *, read_only: bool = False, as_of: int | None = None
    ) -> Warehouse:
        """The warehouse at `root`; a folder is created unless `read_only`. Raises StoreError."""
        store = open_store(root, read_only=read_only)
        return cls(str(root), store, Ledger(store), as_of)

    def at(self, version: int) -> Warehouse:
        """The same warehouse as of a version."""
        return replace(self, as_of=version)

    def is_published(self, key: str) -> bool:
        """Whether this work is in the ledger by now."""
        return self.ledger.find(key) is not None

    def read_table(self, name: str, **wanted: Unpack[Wanted]) -> pa.Table:
        """The live rows of a table, checked; see ledger/reading.py."""
        wanted.setdefault("as_of", self.as_of)
        return read_live(self.store, self.ledger, name, **wanted)

    def connect(
        self,
        rounds: Sequence[int | None] | None = None,
        *,
        only: Callable[[LiveFile], bool] | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with a view per table and mart; see catalog/catalog.py."""
        from warehouse.catalog.catalog import open_views

        return open_views(self.store, self.ledger.snapshot(self.as_of), rounds, only=only)
