"""The rows of a table by the warehouse's root, for a test that looks once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from warehouse.handle import Warehouse


def read_table(
    root: str | Path, table: str, *, as_of: int | None = None, **wanted: Any
) -> pa.Table:
    """See Warehouse.read_table."""
    return Warehouse.open(root, read_only=True, as_of=as_of).read_table(table, **wanted)
