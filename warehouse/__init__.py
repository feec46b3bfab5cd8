"""Tables on a disk or on S3: schemas, store, ledger, publish, catalog.

Knows nothing of models, Beam or rounds. In a notebook:

    import warehouse

    con = warehouse.connect("runs/demo")
    con.sql("from toxicity_by_round")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warehouse.catalog.catalog import connect

__all__ = ["connect"]


def __getattr__(name: str) -> Any:
    """`connect`, fetched when it is asked for: who needs only the schemas loads no DuckDB."""
    if name in __all__:
        from warehouse.catalog import catalog

        return getattr(catalog, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
