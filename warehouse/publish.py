"""Publishing: rows become checked, sorted Parquet files and one commit.

One file per table and round, whatever the number of shards they came from, because the number of
files is what makes queries slow. The data files go first, under names nobody knows; the commit
makes them all visible at once. Killed at any moment, publish leaves orphans only.
Not here: the shards and their names (pipeline), how a file is written (ledger/data_files.py), the
commit file (ledger/ledger.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.catalog import catalog
from warehouse.catalog.table_views import create_table_view
from warehouse.errors import (
    AlreadyPublished,
    Conflict,
    CorruptFile,
    ForgottenMeanwhile,
    SchemaMismatch,
    WarehouseError,
)
from warehouse.ledger.commits import FORGET, VACUUM, Commit, LiveFile
from warehouse.ledger.data_files import put_rows, write_parquet
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.suppression import forgotten, without_forgotten
from warehouse.schemas import TABLES, Table, conform
from warehouse.store import open_store
from warehouse.store.base import Store

__all__ = ["PublishRefused", "publish", "read_staged", "write_parquet"]
_SHOWN_ROWS = 5
_SUSPICIOUS_SECONDS = 1800  # half the age at which vacuum may first take a file for an orphan
_LONG_RUN = 1000


class PublishRefused(WarehouseError):
    """The rows break a rule of the warehouse; the message names the rule and the first rows."""


def publish(
    root: str | Path,
    key: str,
    tables: Mapping[str, pa.Table],
    *,
    round: int | None = None,
    remove: Sequence[str] = (),
    code_version: str = "",
    config_sha256: str = "",
    meta: Mapping[str, str] | None = None,
    operation: str = "publish",
    since: int | None = None,
) -> Commit:
    """Writes `tables` (name -> rows) and commits them, and the removal of the paths `remove`.

    An empty table adds no file, the commit is written all the same. Prompts and templates are
    named by their content: rows that are live already are left out. With `round`, every row of a
    table by round must carry it. With `since`, no other commit may have touched these tables after
    that version.
    Rows of forgotten prompts are left out, also of those forgotten while this call ran.
    Raises AlreadyPublished for a key in the ledger, SchemaMismatch, or PublishRefused for a
    repeated key, a NaN, a foreign round, or a failed check of `sql/checks`; Conflict as
    Ledger.append does; TrainedOnForgotten.
    """
    store = open_store(root)
    ledger = Ledger(store)
    # One version for all checks, and it comes before the look for the key: rows of another process
    # that publishes the same key right now would look like rows that stand twice.
    seen = ledger.head()
    if ledger.find(key):
        raise AlreadyPublished(key)
    ledger.refuse_dead(key, remove)
    gone = forgotten(ledger.commits(seen))
    kept = without_forgotten(key, tables, gone)
    live = [file for file in ledger.files(seen) if file.path not in set(remove)]
    about: dict[str, Any] = {
        "operation": operation,
        "code_version": code_version,
        "config_sha256": config_sha256,
        "meta": meta,
        "since": since,
    }
    try:
        if "labels" in kept:
            kept["labels"] = _with_purpose(store, kept["labels"], kept.get("rollouts"), live)
        fresh = {name: _prepare(store, name, rows, round, live) for name, rows in kept.items()}
        began = time.time()
        added = _put_checked(store, key, fresh, live)
    except (duckdb.Error, OSError):
        if not _lost_files(ledger, seen):
            raise
        return publish(root, key, tables, round=round, remove=remove, **about)
    if time.time() - began > _SUSPICIOUS_SECONDS:
        _refuse_vacuumed(store, key, added)
    try:
        return ledger.append(key, added, remove, seen=seen, **about)
    except Conflict as error:
        for file in added:  # they may hold what was forgotten; nobody has read them
            store.delete(file.path)
        if not isinstance(error, ForgottenMeanwhile):
            raise
    return publish(root, key, tables, round=round, remove=remove, **about)


def _put_checked(
    store: Store, key: str, fresh: Mapping[str, pa.Table], live: Sequence[LiveFile]
) -> list[LiveFile]:
    """Writes the rows while they are checked; none of the files is put before they passed."""
    with ThreadPoolExecutor(1) as beside:
        checks = beside.submit(_run_checks, store, key, fresh, live)
        added = [
            file
            for name, rows in fresh.items()
            for file in put_rows(store, name, rows, when=checks.result)
        ]
        checks.result()
    return added


def _refuse_vacuumed(store: Store, key: str, added: Sequence[LiveFile]) -> None:
    """A process that slept for hours may find its files vacuumed (maintenance/vacuum.py)."""
    lost = [file.path for file in added if not store.exists(file.path)]
    if lost:
        raise Conflict(f"{key}: {lost[0]} was deleted before it was committed; run it again")


def _lost_files(ledger: Ledger, seen: int) -> bool:
    """Whether a forget or a vacuum may have deleted files of version `seen` since."""
    return any(c.operation in (FORGET, VACUUM) for c in ledger.commits()[seen + 1 :])


def read_staged(paths: Sequence[Path], table: str) -> pa.Table:
    """The rows of staged shards of `table`, in the order of `paths`, in the table's schema.

    Raises CorruptFile or SchemaMismatch naming the shard.
    """
    shards = []
    for path in paths:
        try:
            shards.append(conform(table, pq.ParquetFile(path).read()))
        except (OSError, pa.ArrowException) as error:
            raise CorruptFile(f"{path}: damaged or missing: {error}") from error
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{path}: {error}") from error
    return pa.concat_tables([TABLES[table].schema.empty_table(), *shards])


def _prepare(
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
        _refuse_repeated_keys(con, name, "fresh")
        keys = ", ".join(table.key)
        create_table_view(con, store, name, [file for file in live if file.table == name])
        content = ", ".join(c for c in table.schema.names if c not in table.volatile)
        _refuse_rows(
            f"table {name}: {keys} is published with another content",
            con.sql(
                f"select {keys} from (select {content} from fresh except select {content} from "
                f"{name}) semi join {name} using ({keys})"
            ),
        )
        new = con.sql(f"select * from fresh anti join {name} using ({keys})")
        rows = conform(name, new.to_arrow_table())
    return _sorted(table, rows)


def _refuse_repeated_keys(con: duckdb.DuckDBPyConnection, name: str, view: str) -> None:
    keys = ", ".join(TABLES[name].key)
    _refuse_rows(
        f"table {name}: key ({keys}) stands more than once",
        con.sql(f"select {keys}, count(*) as n from {view} group by {keys} having n > 1"),
    )


def _with_purpose(
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


def _run_checks(
    store: Store, key: str, fresh: Mapping[str, pa.Table], live: Sequence[LiveFile]
) -> None:
    """Each key once, and sql/checks over the fresh rows and what is live of their rounds."""
    rounds: set[int | None] = set()
    for name, rows in fresh.items():
        for column in {"round", "source_round"} & set(rows.column_names):
            if TABLES[name].by_round:
                rounds.update(rows.column(column).unique().to_pylist())
    checks = {
        check: sql
        for check, sql in catalog.load_checks().items()
        if any(catalog.mentions(sql, name) for name in fresh)
    }
    con = catalog.open_connection()
    for name, rows in fresh.items():
        con.register(f"fresh_{name}", rows)
        if TABLES[name].by_round and name != "labels":  # sql/checks has it for labels, over all
            _refuse_repeated_keys(con, name, f"fresh_{name}")
    for name in TABLES:
        if not any(catalog.mentions(sql, name) for sql in checks.values()):
            continue
        files = [file for file in live if file.table == name]
        if TABLES[name].by_round:
            files = [file for file in files if file.round in rounds]
        create_table_view(con, store, name, files)
        if name in fresh:
            con.execute(f"alter view {name} rename to live_{name}")
            con.execute(
                f"create view {name} as from live_{name} union all by name from fresh_{name}"
            )
    for check, sql in checks.items():
        _refuse_rows(f"{key}: check {check} found bad rows", con.sql(sql))


def _refuse_rows(rule: str, bad: duckdb.DuckDBPyRelation) -> None:
    rows = bad.limit(_SHOWN_ROWS).to_arrow_table().to_pylist()
    if rows:
        shown = "".join(f"\n  {row}" for row in rows)
        raise PublishRefused(f"{rule}, the first of them:{shown}")
