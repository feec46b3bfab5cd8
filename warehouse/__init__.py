"""Tables on a disk or on S3: schemas, store, ledger, publish, catalog.

Knows nothing of models, Beam or rounds. In a notebook:

    import warehouse

    con = warehouse.connect("runs/demo")
    con.sql("from toxicity_by_round")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb

__all__ = ["connect"]


def connect(
    root: str | Path, as_of: int | None = None, rounds: Sequence[int | None] | None = None
) -> duckdb.DuckDBPyConnection:
    """The warehouse at `root` at version `as_of` as views, every column with its description.

    Raises as catalog.connect does.
    """
    # Only now: who needs nothing but the schemas loads no DuckDB.
    from warehouse.catalog import catalog

    con = catalog.connect(root, as_of, rounds)
    catalog.describe_columns(con)
    return con
