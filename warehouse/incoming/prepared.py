"""Rows as they will be written: in the schema, free of NaN, sorted, without what is live already.

Not here: what is worked out from other rows (derived.py), rules over several rows (checks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.catalog import catalog
from warehouse.catalog.table_views import create_table_view
from warehouse.incoming.checks import PublishRefused, refuse_repeated_keys, refuse_rows
from warehouse.ledger.commits import LiveFile
from warehouse.schemas import TABLES, Table, conform
from warehouse.store.base import Store

_LONG_RUN = 1000


def prepare(
    store: Store, name: str, rows: pa.Table, round: int | None, live: Sequence[LiveFile]
) -> pa.Table:
    """The rows in the schema, free of NaN, sorted; of a table without rounds those not live yet."""
    if name not in TABLES:
        raise PublishRefused(f"no table {name}; there are: {', '.join(TABLES)}")
    table = TABLES[name]
    rows = conform(name, rows)
    for field in table.schema:
        if _has_nan(rows.column(field.name).combine_chunks()):
            raise PublishRefused(f"table {name}: NaN in {field.name}; a missing number is NULL")
    if table.by_round and round is not None:
        foreign = set(rows.column("round").unique().to_pylist()) - {round}
        if foreign:
            raise PublishRefused(f"table {name}: rows of {foreign} in the commit of round {round}")
    if not table.by_round:
        con = catalog.open_connection()
        con.register("fresh", rows)
        refuse_repeated_keys(con, name, "fresh")
        keys = ", ".join(table.key)
        create_table_view(con, store, name, [file for file in live if file.table == name])
        content = ", ".join(c for c in table.schema.names if c not in table.volatile)
        refuse_rows(
            con,
            f"table {name}: {keys} is published with another content",
            f"select {keys} from (select {content} from fresh except select {content} from "
            f"{name}) semi join {name} using ({keys})",
        )
        new = con.sql(f"select * from fresh anti join {name} using ({keys})")
        rows = conform(name, new.to_arrow_table())
    return _sorted(table, rows)


def _sorted(table: Table, rows: pa.Table) -> pa.Table:
    """The rows in the table's order. Those that are already, or in long runs, are not copied."""
    order = (*table.sort, *(column for column in table.key if column not in table.sort))
    indices = pc.sort_indices(rows, sort_keys=[(column, "ascending") for column in order])
    places = indices.to_numpy()
    starts = np.flatnonzero(np.diff(places) != 1) + 1
    if len(starts) * _LONG_RUN > len(places):
        columns = [
            column if _is_constant(column) else column.take(indices) for column in rows.columns
        ]
        return pa.Table.from_arrays(columns, schema=rows.schema)
    bounds = [0, *starts.tolist(), len(places)]
    runs = [rows.slice(places[a], b - a) for a, b in pairwise(bounds) if a < b]
    return pa.concat_tables(runs) if runs else rows


def _is_constant(column: pa.ChunkedArray) -> bool:
    """Whether every row holds the same; False for a nested column that is not all NULL."""
    if column.null_count or pa.types.is_nested(column.type):
        return column.null_count == len(column)
    return len(column) > 0 and bool(pc.all(pc.equal(column, column[0])).as_py())


def _has_nan(column: pa.Array) -> bool:
    if pa.types.is_floating(column.type):
        return bool(pc.any(pc.is_nan(column)).as_py())
    if pa.types.is_list(column.type):
        return _has_nan(column.flatten())
    if pa.types.is_struct(column.type):
        return any(_has_nan(leaf) for leaf in column.flatten())
    return False
