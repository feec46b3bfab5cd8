"""What publish works out from rows: the purpose of labels, and the sums of hold-out scores.

Not here: marts, which are worked out when they are asked (sql/).
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.catalog import catalog
from warehouse.catalog.table_views import create_table_view
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.evidence import read_rows
from warehouse.schemas import TABLES, conform
from warehouse.store.base import Store

_SAME = """
    {0}.round is not distinct from summed.round
    and {0}.labeler = summed.labeler
    and {0}.revision = summed.revision
"""


def with_purpose(
    store: Store, labels: pa.Table, rollouts: pa.Table | None, live: Sequence[LiveFile]
) -> pa.Table:
    """The labels with the purpose of their rollouts where it is NULL.

    It is the one thing about a rollout that nearly every question to the labels asks for.
    """
    labels = conform("labels", labels)
    purposes = labels.column("purpose")
    if not purposes.null_count:
        return labels
    rounds = labels.column("round").unique().to_pylist()
    con = catalog.open_connection()
    files = [file for file in live if file.table == "rollouts" and file.round in rounds]
    create_table_view(con, store, "rollouts", files)
    known = con.sql("select rollout_id, purpose from rollouts").to_arrow_table()
    if rollouts is not None:
        known = pa.concat_tables([known, rollouts.select(known.column_names).cast(known.schema)])
    places = pc.index_in(labels.column("rollout_id"), known.column("rollout_id"))
    found = pc.coalesce(purposes, known.column("purpose").take(places))
    number = labels.schema.get_field_index("purpose")
    return labels.set_column(number, labels.schema.field(number), found)


def prompt_sums(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """The rows of table `prompt_sums` for the labels that `con` knows under this name."""
    con.execute("set threads = 1")  # sums of floats in one order: equal nights, equal sums
    return conform("prompt_sums", con.sql(catalog.load_derivation("prompt_sums")).to_arrow_table())


def with_sums(
    store: Store, labels: pa.Table, live: Sequence[LiveFile]
) -> tuple[pa.Table, list[str]]:
    """Rows of `prompt_sums` for the hold-out labels, and the paths of the live ones they replace.

    They are stored, because the numbers of every night would otherwise sum up the labels of all
    nights again. A revision whose labels come in several commits is summed up anew as a whole.
    """
    fresh = labels.filter(pc.field("purpose") == "holdout")
    if not fresh.num_rows:
        return TABLES["prompt_sums"].schema.empty_table(), []
    rounds = fresh.column("round").unique().to_pylist()
    files = [file for file in live if file.round in rounds]
    con = catalog.open_connection()
    con.register("fresh", fresh)
    con.execute("create table summed as select distinct round, labeler, revision from fresh")
    create_table_view(con, store, "labels", [file for file in files if file.table == "labels"])
    con.execute("alter view labels rename to live")
    con.execute(
        "create view labels as from fresh union all by name "
        f"select live.* from live semi join summed on {_SAME.format('live')} "
        "where live.purpose = 'holdout'"
    )
    parts, replaced = [prompt_sums(con)], []
    for file in files:
        if file.table == "prompt_sums":
            stored = read_rows(store, file)
            con.register("stored", stored)
            others = con.sql(f"from stored anti join summed on {_SAME.format('stored')}")
            if others.shape[0] < stored.num_rows:
                parts.append(conform("prompt_sums", others.to_arrow_table()))
                replaced.append(file.path)
    return pa.concat_tables(parts), replaced
