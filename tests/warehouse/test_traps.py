"""Each trap that was measured on the way to this warehouse, and that ours does not step into.

Where it is cheap, a test shows the trap itself first: where a new version of a library closes it,
that test says so. Traps that other tests hold shut already are only named here:

2   DuckDB's glob sees `_staging`: test_catalog.test_files_outside_the_ledger_are_no_rows
6   a flipped bit passes unseen: test_catalog.test_one_flipped_bit_is_noticed, test_verify
10  NaN poisons avg: test_publish.test_a_nan_is_refused, test_a_nan_inside_a_reward_term_is_refused
15  `os.rename` overwrites: test_store.test_a_key_is_never_overwritten,
    test_one_of_sixteen_racing_writers_wins
16  DuckDB fetches extensions: test_catalog.test_the_network_is_never_asked
"""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
import pytest
from boto3.s3.transfer import S3Transfer

from tests.warehouse.builder import (
    label,
    prompt,
    publish_rows,
    rollout,
    small_warehouse,
    write_parquet,
)
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect, open_connection
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.publish import publish, read_staged
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store

ROOT = Path(__file__).parents[2]
PACKAGES = ("warehouse", "labeling", "training", "pipeline")


def calls(*names: str) -> list[tuple[str, ast.Call, ast.AST | None]]:
    """(place, call, what it stands in) of every call of a method of these names in our code."""
    found = []
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in names:
                place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
                found.append((place, node, parents.get(node)))
    return found


# 1. DuckDB 2.0 reads wrong bytes through an fsspec file system.


def test_1_no_file_system_stands_between_duckdb_and_the_files(store_root: str) -> None:
    small_warehouse(store_root)
    con = connect(store_root)
    assert con.list_filesystems() == []
    assert con.sql("select count(*), sum(score) from labels").fetchall() == [
        (10, pytest.approx(4.3))
    ]
    assert calls("register_filesystem") == []


# 3. Without union_by_name the first file's schema wins.


def test_3_the_first_file_does_not_decide_about_columns_and_types(tmp_path: Path) -> None:
    exact, rounded = 0.1, 0.10000000149011612
    pq.write_table(pa.table({"a": pa.array([exact], pa.float32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [exact], "b": [1]}), tmp_path / "2.parquet")
    files = [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]
    trap = duckdb.sql(f"select * from read_parquet({files})")
    assert trap.columns == ["a"]
    assert max(trap.fetchall())[0] == pytest.approx(rounded, abs=0)
    rows = table_from_rows("labels", [label(rollout(0, "p1"), exact)])
    narrow = rows.drop_columns(TABLES["labels"].schema.names[-3:]).set_column(
        rows.schema.get_field_index("score"), "score", rows["score"].cast(pa.float32())
    )
    root = tmp_path / "w"
    publish_rows(root, "rollouts", 0, rollouts=[rollout(0, "p1"), rollout(0, "p2")])
    old = LiveFile("labels", 0, "labels/round=0/old.parquet", 1, 0, "", schema_version=0)
    (root / old.path).parent.mkdir(parents=True)
    pq.write_table(narrow, root / old.path)  # as a version of long ago wrote it
    Ledger(open_store(root)).append("old", [old])
    publish_rows(root, "new", 0, labels=[label(rollout(0, "p2"), exact, is_consistent=True)])
    con = connect(root)
    assert con.sql("from labels").columns == TABLES["labels"].schema.names
    found = con.sql("select is_consistent, score from labels order by rollout_id").fetchall()
    assert found == [(None, rounded), (True, exact)]


# 4. `round=00017` is a VARCHAR to DuckDB.


def test_4_a_round_is_an_integer_whatever_its_folder_is_called(tmp_path: Path) -> None:
    publish_rows(tmp_path, "key", 17, rollouts=[rollout(17, "p1")])
    (file,) = Ledger(open_store(tmp_path)).files()
    assert file.path.startswith("rollouts/round=17/")
    padded = tmp_path / "rollouts" / "round=00017" / "x.parquet"
    padded.parent.mkdir()
    pq.write_table(pa.table({"a": [1]}), padded)
    assert duckdb.sql(f"select typeof(round) from '{padded}'").fetchall() == [("VARCHAR",)]
    con = connect(tmp_path)
    assert con.sql("select round, typeof(round) from rollouts").fetchall() == [(17, "INTEGER")]


# 5. An exception in a `with` publishes what was written so far.


def test_5_a_write_that_fails_leaves_nothing(store_root: str, monkeypatch) -> None:
    store = open_store(store_root)
    with pytest.raises(OSError, match="absent"):
        store.put_file("labels/half.parquet", Path("/absent/file"))
    assert store.list("labels/") == []
    real = pq.ParquetWriter.write_table

    def half(writer: pq.ParquetWriter, rows: pa.Table, *options: object) -> None:
        real(writer, rows.slice(0, 1), *options)
        raise RuntimeError("the disk has gone")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", half)
    with pytest.raises(RuntimeError, match="the disk has gone"):
        publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1"), rollout(0, "p2")])
    assert store.entries("") == []


def test_5_the_trap_is_there(tmp_path: Path) -> None:
    rows, path = pa.table({"a": range(1000)}), str(tmp_path / "half.parquet")

    def write_and_fail() -> None:
        files = arrow_fs.LocalFileSystem()
        with files.open_output_stream(path) as out, pq.ParquetWriter(out, rows.schema) as writer:
            writer.write_table(rows)
            raise RuntimeError("the disk has gone")

    with pytest.raises(RuntimeError, match="the disk has gone"):
        write_and_fail()
    assert pq.read_table(path).num_rows == 1000


# 7. `read_parquet([])` raises.


def test_7_a_table_without_files_is_an_empty_table(store_root: str) -> None:
    with pytest.raises(duckdb.Error):
        duckdb.sql("select * from read_parquet([])")
    publish_rows(store_root, "prompts", prompts=[prompt("p1")])
    con = connect(store_root)
    for name in TABLES:
        ((count,),) = con.sql(f"select count(*) from {name}").fetchall()
        assert count == (name == "prompts")
        assert read_table(store_root, name).schema.equals(TABLES[name].schema)


# 8. `execute()` streams: with a result that is not read to its end, the next call raises.


def test_8_every_result_of_execute_is_read_to_its_end(tmp_path: Path) -> None:
    con = open_connection()
    con.execute("select 1").fetchone()
    with pytest.raises(duckdb.Error, match="unfinished result"):
        con.sql("select 2").fetchall()
    connect(small_warehouse(tmp_path)).sql("select 1").fetchall()
    for place, call, parent in calls("execute"):
        if "sqlite3" in (ROOT / place.partition(":")[0]).read_text():
            continue  # its cursors are independent
        reads = parent.attr if isinstance(parent, ast.Attribute) else ""
        text = ast.unparse(call.args[0]).lstrip("f'\"")
        is_statement = isinstance(parent, ast.Expr) and not text.startswith(("select", "from"))
        assert is_statement or reads == "fetchall", f"{place}: {ast.unparse(call)}"


# 9. Times with a zone become Python objects only where pytz is installed.


def test_9_times_are_read_without_pytz_as_arrow_and_pytz_is_required(tmp_path: Path) -> None:
    root = small_warehouse(tmp_path / "w")
    code = (
        "import sys; sys.modules['pytz'] = None; from warehouse.catalog.catalog import connect; "
        "con = connect(sys.argv[1]); query = 'select max(labeled_at) as at from labels'; "
        "print(con.sql(query).to_arrow_table()['at'].type); con.sql(query).fetchall()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "timestamp[us, tz=UTC]"
    assert "pytz" in done.stderr  # the trap itself
    project = (ROOT / "pyproject.toml").read_text()
    assert "pytz" in project[: project.index("[project.optional-dependencies]")]


# 11. pyarrow's "zstd" means level 1.


def test_11_files_are_compressed_at_level_3(tmp_path: Path) -> None:
    words = [f"{'abcdefgh'[i % 8] * (i % 5 + 1)}{math.sin(i):.3f}" for i in range(4000)]
    texts = [" ".join(words[(7 * i) % 3900 :][:40]) for i in range(2000)]
    rows = table_from_rows(
        "rollouts", [rollout(0, f"p{i:05}", completion=text) for i, text in enumerate(texts)]
    )
    path, size = tmp_path / "rows.parquet", {}
    for level in (1, 3):
        pq.write_table(
            rows.select(["completion"]), path, compression="zstd", compression_level=level,
            use_dictionary=False, row_group_size=16_384,
        )  # fmt: skip
        size[level] = pq.read_metadata(path).row_group(0).column(0).total_compressed_size
    write_parquet("rollouts", rows, path)
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    ours = columns["completion"].total_compressed_size
    assert abs(ours - size[3]) < abs(ours - size[1]) / 10


# 12. boto3's `upload_file` cannot be conditional.


def test_12_large_files_do_not_go_by_upload_file() -> None:
    # Where boto3 has learnt it, this says so; that a put never overwrites is test_store's.
    assert "IfNoneMatch" not in S3Transfer.ALLOWED_UPLOAD_ARGS
    assert calls("upload_file", "upload_fileobj") == []


# 13. string_view columns break DuckDB's filters over pyarrow data sets.


def test_13_views_of_strings_are_stored_as_strings(store_root: str) -> None:
    rows = table_from_rows("rollouts", [rollout(0, "p1"), rollout(0, "p2")])
    at = rows.schema.get_field_index("prompt_id")
    viewed = rows.set_column(at, "prompt_id", rows["prompt_id"].cast(pa.string_view()))
    publish(store_root, "key", {"rollouts": viewed}, round=0)
    assert read_table(store_root, "rollouts").schema.field("prompt_id").type == pa.string()
    query = "select rollout_id from rollouts where prompt_id = 'p2' and purpose = 'holdout'"
    assert connect(store_root).sql(query).fetchall() == [("0-p2-0",)]
    types = {field.type for table in TABLES.values() for field in table.schema}
    assert not types & {pa.string_view(), pa.binary_view()}


# 14. A view hides DuckDB's `filename`.


def test_14_the_file_of_a_row_comes_from_the_ledger(tmp_path: Path) -> None:
    root = small_warehouse(tmp_path)
    with pytest.raises(duckdb.BinderException, match="filename"):
        connect(root).sql("select filename from rollouts")
    by_file = {
        file.path: pq.ParquetFile(root / file.path).read()["rollout_id"].to_pylist()
        for file in Ledger(open_store(root)).files(table="rollouts")
    }
    holding = [path for path, ids in by_file.items() if "1-p2-0" in ids]
    assert len(holding) == 1
    assert holding[0].startswith("rollouts/round=1/")


# 17. Beam names the leaf of a list `item`, so that encodings by path miss it.


def test_17_staged_lists_get_the_measured_encoding(tmp_path: Path) -> None:
    rows = table_from_rows("rollouts", [rollout(0, "p1")])
    shard = tmp_path / "shard.parquet"
    pq.write_table(rows, shard, use_compliant_nested_type=False)  # WriteToParquet's default
    leaf = "behavior_logprobs.list.item"
    assert leaf in {column.path for column in pq.ParquetFile(shard).schema}
    publish(tmp_path / "w", "key", {"rollouts": read_staged([shard], "rollouts")}, round=0)
    (file,) = Ledger(open_store(tmp_path / "w")).files()
    group = pq.read_metadata(tmp_path / "w" / file.path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["behavior_logprobs.list.element"].encodings


# And for all of them: one place opens DuckDB.


def test_duckdb_is_opened_in_one_place_without_the_network() -> None:
    ours = [
        place.partition(":")[0]
        for place, call, _ in calls("connect")
        if ast.unparse(call.func) == "duckdb.connect"
    ]
    assert ours == ["warehouse/catalog/catalog.py"]
    settings = "select name, value from duckdb_settings() where name like 'auto%known_extensions'"
    assert set(open_connection().sql(settings).fetchall()) == {
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
    }
