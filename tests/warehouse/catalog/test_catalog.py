"""Reading: pinned versions, no globs, damage noticed, an audit console that stays inside."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import publish_rows, rollout
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect, load_query, lock_down, query_names, view_columns
from warehouse.errors import CorruptFile, StoreError, WarehouseError
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store


def test_an_empty_warehouse_answers_every_query_with_no_row(tmp_path: Path) -> None:
    con = connect(tmp_path)
    for name in TABLES:
        assert con.sql(f"from {name}").fetchall() == []
    views = {name for (name,) in con.sql("select view_name from duckdb_views()").fetchall()}
    for name in query_names():
        sql = load_query(name)
        params = {"rollout": "0-p1-0"} if "$rollout" in sql else None
        assert con.sql(sql, params=params).fetchall() == []
        if name in views:
            assert con.sql(f"from {name}").fetchall() == []
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_files_has_the_types_of_one_with_files(tmp_path: Path) -> None:
    con = connect(tmp_path)
    for name, table in TABLES.items():
        rows = table.schema.empty_table()
        as_arrow = con.from_arrow(rows)
        view = con.sql(f"from {name}")
        assert list(zip(view.columns, view.types, strict=True)) == list(
            zip(as_arrow.columns, as_arrow.types, strict=True)
        )


def test_views_hold_the_columns_and_rows_that_were_published(shared_warehouse: Path) -> None:
    con = connect(shared_warehouse)
    assert con.sql("select count(*) from rollouts").fetchall() == [(10,)]
    for name, table in TABLES.items():
        assert con.sql(f"from {name}").columns == table.schema.names


def test_views_and_marts_carry_their_grain_as_a_comment(shared_warehouse: Path) -> None:
    comments = dict(
        connect(shared_warehouse).sql("select view_name, comment from duckdb_views()").fetchall()
    )
    assert comments["rollouts"] == "one row per sampled completion"
    assert comments["toxicity_by_round"].startswith("one row per round and labeler")
    assert comments["toxicity_by_round"] == query_names()["toxicity_by_round"]
    assert all(line.startswith("one row per ") for line in query_names().values())


def test_a_connection_keeps_its_version_while_others_publish(warehouse: Path) -> None:
    con = connect(warehouse)
    head = Ledger(open_store(warehouse)).head()
    publish_rows(warehouse, "later", 5, rollouts=[rollout(5, "p1")])
    assert con.sql("select count(*) from rollouts where round = 5").fetchall() == [(0,)]
    for as_of, count in ((None, 1), (head, 0)):
        rows = connect(warehouse, as_of).sql("select count(*) from rollouts where round = 5")
        assert rows.fetchall() == [(count,)]


def test_files_outside_the_ledger_are_no_rows(warehouse: Path) -> None:
    """DuckDB's own glob would find all three."""
    (file, *_) = Ledger(open_store(warehouse)).files(table="rollouts", rounds=[0])
    for stray in ("_staging/a.parquet", "rollouts/round=0/b.parquet", "rollouts/.c.parquet"):
        (warehouse / stray).parent.mkdir(exist_ok=True)
        shutil.copy(warehouse / file.path, warehouse / stray)
    assert connect(warehouse).sql("select count(*) from rollouts").fetchall() == [(10,)]
    assert read_table(warehouse, "rollouts").num_rows == 10


def test_a_column_that_older_files_lack_is_null_in_them(tmp_path: Path) -> None:
    old = table_from_rows("rollouts", [rollout(0, "p1")]).drop_columns(["dtype", "seed"])
    (tmp_path / "rollouts").mkdir()
    pq.write_table(old, tmp_path / "rollouts" / "old.parquet")
    file = LiveFile("rollouts", 0, "rollouts/old.parquet", 1, 0, "", schema_version=0)
    Ledger(open_store(tmp_path)).append("old", [file])
    assert connect(tmp_path).sql("from rollouts").columns == TABLES["rollouts"].schema.names
    publish_rows(tmp_path, "new", 1, rollouts=[rollout(1, "p1", dtype="float32")])
    both = [("0-p1-0", None), ("1-p1-0", "float32")]
    con = connect(tmp_path)
    assert con.sql("select rollout_id, dtype from rollouts order by all").fetchall() == both
    rows = read_table(tmp_path, "rollouts", columns=["dtype", "rollout_id"])
    assert list(zip(*rows.to_pydict().values(), strict=True)) == both


def test_a_path_with_a_quote_is_read(shared_warehouse: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shared_warehouse, tmp_path / "mother's"))
    con = connect(root)
    lock_down(con, root)
    assert con.sql("select count(*) from rollouts").fetchall() == [(10,)]


def test_times_are_in_utc(shared_warehouse: Path) -> None:
    ((at,),) = connect(shared_warehouse).sql("select max(labeled_at) from labels").fetchall()
    assert at.isoformat() == "2026-11-20T12:00:00+00:00"


def test_a_wrong_path_is_named_and_not_created(tmp_path: Path) -> None:
    for use in (connect, lambda root: read_table(root, "labels")):
        with pytest.raises(StoreError, match="typo: no such folder"):
            use(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


# read_table


def test_rows_can_be_chosen_by_round_key_version_and_column(shared_warehouse: Path) -> None:
    def ids(**choice: object) -> list[str]:
        rows = read_table(shared_warehouse, "rollouts", columns=["rollout_id"], **choice)
        return rows.column("rollout_id").to_pylist()

    assert ids(rounds=[1]) == ["1-p1-0", "1-p1-1", "1-p2-0", "1-p2-1"]
    assert ids(keys=["round=0/train-rollouts"]) == ["0-t1-0", "0-t1-1"]
    assert ids(rounds=[1], keys=["round=0/train-rollouts"]) == []
    assert len(ids(as_of=1)) == 4
    rows = read_table(shared_warehouse, "labels", columns=["score", "label_id"])
    assert rows.schema.names == ["label_id", "score"]
    whole = read_table(shared_warehouse, "gold")
    assert whole.schema.equals(TABLES["gold"].schema)


def test_an_unknown_table_column_or_key_is_named(shared_warehouse: Path) -> None:
    with pytest.raises(WarehouseError, match="no table ghosts"):
        read_table(shared_warehouse, "ghosts")
    with pytest.raises(WarehouseError, match=r"labels has no columns \['mood'\]"):
        read_table(shared_warehouse, "labels", columns=["mood"])
    with pytest.raises(WarehouseError, match="nothing is published under round=7/rewards"):
        read_table(shared_warehouse, "labels", keys=["round=7/rewards"])


def test_one_flipped_bit_is_noticed(warehouse: Path) -> None:
    (file, *_) = Ledger(open_store(warehouse)).files(table="labels")
    path = warehouse / file.path
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (score,) = (column for column in columns if column.path_in_schema == "score")
    data = bytearray(path.read_bytes())
    data[score.data_page_offset + score.total_compressed_size - 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=file.path):
        read_table(warehouse, "labels", columns=["score"])


def test_a_missing_or_shortened_file_is_named(warehouse: Path) -> None:
    first, second, *_ = Ledger(open_store(warehouse)).files(table="labels")
    (warehouse / first.path).unlink()
    with pytest.raises(CorruptFile, match=first.path):
        read_table(warehouse, "labels")
    rows = pq.ParquetFile(warehouse / second.path).read()
    pq.write_table(rows.slice(1), warehouse / first.path)
    with pytest.raises(CorruptFile, match="3 rows, the ledger has 4"):
        read_table(warehouse, "labels")


# The audit console and the light command


def test_a_locked_connection_reads_the_warehouse_and_nothing_else(
    shared_warehouse: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    con = connect(shared_warehouse)
    lock_down(con, shared_warehouse)
    assert con.sql("select count(*) from toxicity_by_round").fetchall() == [(2,)]
    assert con.sql("select count(*) from gold").fetchall() == [(0,)]
    mine = pa.table({"a": [1]})
    assert mine.num_rows == 1
    for query in (
        f"from '{tmp_path}/secret.csv'",
        f"copy (select 1) to '{tmp_path}/out.csv'",
        "set enable_external_access = true",
        "install httpfs",
        "from mine",
    ):
        with pytest.raises(duckdb.Error):
            con.execute(query)
    assert not (tmp_path / "out.csv").exists()


def test_the_network_is_never_asked(tmp_path: Path) -> None:
    con = connect(tmp_path)
    with pytest.raises(duckdb.Error, match="httpfs"):
        con.sql("from read_parquet('s3://bucket/file.parquet')")


def test_reading_loads_nothing_heavy(shared_warehouse: Path) -> None:
    code = (
        "import sys; from warehouse.catalog import catalog; from warehouse import publish; "
        "print(catalog.connect(sys.argv[1]).sql('from toxicity_by_round').fetchall()[:0]); "
        "print([m for m in ('torch', 'transformers', 'apache_beam', 'vllm', 'matplotlib', 'pandas')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(shared_warehouse)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["[]", "[]"]


def test_an_unknown_query_lists_the_known_ones() -> None:
    with pytest.raises(WarehouseError, match=r"no query tox; there are: .*toxicity_by_round"):
        load_query("tox")


# The ledger in SQL


def test_commits_say_which_version_did_what(warehouse: Path) -> None:
    publish_rows(warehouse, "later", 5, rollouts=[rollout(5, "p1"), rollout(5, "p2")])
    con = connect(warehouse)
    ledger = Ledger(open_store(warehouse))
    rows = con.sql("select version, key, operation, committed_at from commits").fetchall()
    assert rows == [(c.version, c.key, c.operation, c.committed_at) for c in ledger.commits()]
    last = con.sql(
        "select key, files_added, files_removed, rows_added, bytes_added, meta "
        "from commits order by version desc limit 1"
    ).fetchall()
    (file,) = ledger.files(table="rollouts", rounds=[5])
    assert last == [("later", 1, 0, 2, file.bytes, "{}")]
    assert connect(warehouse, 1).sql("select max(version) from commits").fetchall() == [(1,)]


def test_files_are_those_that_are_live(warehouse: Path) -> None:
    con = connect(warehouse)
    rows = con.sql("select path, round, rows, bytes, sha256 from files order by path").fetchall()
    files = sorted(Ledger(open_store(warehouse)).files(), key=lambda file: file.path)
    assert rows == [(f.path, f.round, f.rows, f.bytes, f.sha256) for f in files]
    odd = "select count(*) from files join commits using (version) where key not like 'round=%'"
    assert con.sql(odd).fetchall() == [(1,)]  # the prompts
    per_table = (
        "select table_name, sum(rows)::int from files where table_name = 'rollouts' group by all"
    )
    assert con.sql(per_table).fetchall() == [("rollouts", 10)]


def test_the_ledger_of_an_empty_warehouse_has_its_columns(tmp_path: Path) -> None:
    con = connect(tmp_path)
    assert con.sql("from commits").fetchall() == con.sql("from files").fetchall() == []
    assert [str(kind) for kind in con.sql("select version, committed_at from commits").types] == [
        "BIGINT",
        "TIMESTAMP WITH TIME ZONE",
    ]


def test_marts_read_the_files_although_they_were_made_over_none(shared_warehouse: Path) -> None:
    """Views are bound to empty tables first; a column that changed its type would fail here."""
    con = connect(shared_warehouse)
    for view in view_columns(con):
        con.sql(f"from {view}").fetchall()
    assert con.sql("select count(*) from scored_rollouts").fetchall() == [(10,)]
