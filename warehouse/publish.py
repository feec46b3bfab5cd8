"""Publishing: rows become checked, sorted Parquet files and one commit.

One file per table and round, whatever the number of shards they came from, because the number of
files is what makes queries slow. The data files go first, under names nobody knows; the commit
makes them all visible at once. Killed at any moment, publish leaves orphans only.
Not here: the shards and their names (pipeline), the commit file (ledger.py).
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse import catalog
from warehouse.commits import FORGET, VACUUM
from warehouse.disk_full import IN_TEMPORARY, naming_full_disk
from warehouse.ledger import (
    AlreadyPublished,
    Commit,
    Conflict,
    CorruptFile,
    ForgottenMeanwhile,
    Ledger,
    LiveFile,
)
from warehouse.reading import create_table_view
from warehouse.schemas import SCHEMA_VERSION, TABLES, SchemaMismatch, conform
from warehouse.store import Store, WarehouseError, open_store
from warehouse.suppression import forgotten, without_forgotten

_SHOWN_ROWS = 5


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
        fresh = {name: _prepare(store, name, rows, round, live) for name, rows in kept.items()}
        _run_checks(store, key, fresh, live)
    except (duckdb.Error, OSError):
        if not _lost_files(ledger, seen):
            raise
        return publish(root, key, tables, round=round, remove=remove, **about)
    added = []
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as folder:
        for name, rows in fresh.items():
            for number, part in _by_round(name, rows):
                path = Path(folder) / f"{uuid.uuid4().hex}.parquet"
                with naming_full_disk(
                    path.parent, f"table {name} before compression", part.nbytes, IN_TEMPORARY
                ):
                    write_parquet(name, part, path)
                file = _describe(name, number, part, path)
                store.put_file(file.path, path)
                added.append(file)
    try:
        return ledger.append(key, added, remove, seen=seen, **about)
    except Conflict as error:
        for file in added:  # they may hold what was forgotten; nobody has read them
            store.delete(file.path)
        if not isinstance(error, ForgottenMeanwhile):
            raise
    return publish(root, key, tables, round=round, remove=remove, **about)


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


def write_parquet(name: str, rows: pa.Table, path: Path) -> None:
    """Writes conforming rows of table `name` with the encodings measured for it.

    pyarrow's own zstd default is level 1; its default dictionary bloats near-unique columns.
    """
    table = TABLES[name]
    encodings = dict.fromkeys(table.delta, "DELTA_BYTE_ARRAY")
    for field in table.schema:
        if pa.types.is_float32(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif field.type == pa.list_(pa.float32()):
            encodings[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT"
    about = {"schema_version": str(SCHEMA_VERSION), "table": name, "grain": table.grain}
    pq.write_table(
        rows.replace_schema_metadata(about),
        path,
        compression="zstd",
        compression_level=3,
        use_dictionary=list(table.dictionary),
        column_encoding=encodings,
        row_group_size=table.row_group_size,
        write_page_index=True,
        write_page_checksum=True,
    )


def _prepare(
    store: Store, name: str, rows: pa.Table, round: int | None, live: Sequence[LiveFile]
) -> pa.Table:
    """The rows in the schema, free of NaN, each key once, sorted."""
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
    con = catalog.open_connection()
    con.register("fresh", rows)
    keys = ", ".join(table.key)
    _refuse_rows(
        f"table {name}: key ({keys}) stands more than once",
        con.sql(f"select {keys}, count(*) as n from fresh group by {keys} having n > 1"),
    )
    if not table.by_round:
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
    order = (*table.sort, *(column for column in table.key if column not in table.sort))
    return rows.sort_by([(column, "ascending") for column in order])


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
    """Runs sql/checks over the fresh rows and what is live of the rounds they speak of."""
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
    for name in TABLES:
        if not any(catalog.mentions(sql, name) for sql in checks.values()):
            continue
        files = [file for file in live if file.table == name]
        if TABLES[name].by_round:
            files = [file for file in files if file.round in rounds]
        create_table_view(con, store, name, files)
        if name in fresh:
            con.execute(f"alter view {name} rename to live_{name}")
            con.register(f"fresh_{name}", fresh[name])
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


def _by_round(name: str, rows: pa.Table) -> list[tuple[int | None, pa.Table]]:
    if rows.num_rows == 0:
        return []
    if not TABLES[name].by_round:
        return [(None, rows)]
    rounds = rows.column("round")
    parts = []
    for number in rounds.unique().to_pylist():
        chosen = pc.is_null(rounds) if number is None else pc.equal(rounds, number)
        parts.append((number, rows.filter(chosen)))
    return parts


def _describe(name: str, number: int | None, rows: pa.Table, path: Path) -> LiveFile:
    folder = name if number is None else f"{name}/round={number}"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return LiveFile(
        table=name,
        round=number,
        path=f"{folder}/{path.name}",
        rows=rows.num_rows,
        bytes=path.stat().st_size,
        sha256=sha256,
        schema_version=SCHEMA_VERSION,
    )
