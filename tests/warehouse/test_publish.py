"""Publishing: files as measured, bad rows refused, kills and races harmless."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import (
    NOON,
    label,
    prompt,
    publish_rows,
    reward,
    rollout,
    write_parquet,
)
from tests.warehouse.opened import read_table
from warehouse import publish as publishing
from warehouse.catalog.catalog import load_checks
from warehouse.errors import AlreadyPublished, CorruptFile, SchemaMismatch
from warehouse.ledger.commits import Commit
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.suppression import Forgotten
from warehouse.maintenance.forgetting import forget
from warehouse.publish import PublishRefused, publish, read_staged
from warehouse.schemas import SCHEMA_VERSION, STATUSES, TABLES, table_from_rows
from warehouse.store import open_store


def live_paths(root: Path, table: str) -> list[Path]:
    return [root / file.path for file in Ledger(open_store(root)).files(table=table)]


# Files


def test_rows_become_one_sorted_file_with_the_measured_encodings(tmp_path: Path) -> None:
    rows = [rollout(3, name, k, temperature=0.5) for name in ("p2", "p1") for k in (1, 0)]
    publish_rows(tmp_path, "key", 3, rollouts=rows)
    (path,) = live_paths(tmp_path, "rollouts")
    assert path.parent == tmp_path / "rollouts" / "round=3"
    file = pq.ParquetFile(path)
    assert file.read().column("rollout_id").to_pylist() == ["3-p1-0", "3-p1-1", "3-p2-0", "3-p2-1"]
    assert file.schema_arrow.metadata[b"table"] == b"rollouts"
    assert file.schema_arrow.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert file.schema_arrow.metadata[b"grain"] == b"one row per sampled completion"
    assert file.schema_arrow.field("round").metadata[b"PARQUET:field_id"] == b"2"
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert all(column.compression == "ZSTD" for column in columns.values())
    assert all(column.has_offset_index for column in columns.values())
    assert "DELTA_BYTE_ARRAY" in columns["rollout_id"].encodings
    assert "RLE_DICTIONARY" in columns["purpose"].encodings
    assert "RLE_DICTIONARY" not in columns["completion"].encodings
    for name in ("behavior_logprobs.list.element", "temperature"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_written_empty_and_read_back(tmp_path: Path, name: str) -> None:
    write_parquet(name, TABLES[name].schema.empty_table(), tmp_path / "file.parquet")
    assert pq.read_table(tmp_path / "file.parquet").schema.equals(TABLES[name].schema)


def test_rollouts_are_cut_into_groups_of_16384_rows(tmp_path: Path) -> None:
    rows = table_from_rows("rollouts", [rollout(0, "p1")])
    write_parquet("rollouts", pa.concat_tables([rows] * 16_385), tmp_path / "file.parquet")
    metadata = pq.read_metadata(tmp_path / "file.parquet")
    assert [metadata.row_group(i).num_rows for i in range(2)] == [16_384, 1]


def test_the_ledger_holds_size_hash_and_rows_of_the_file(store_root: str) -> None:
    publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1")])
    (file,) = Ledger(open_store(store_root)).files()
    data = open_store(store_root).get(file.path)
    assert (file.table, file.round, file.rows, file.bytes) == ("rollouts", 0, 1, len(data))
    assert file.sha256 == hashlib.sha256(data).hexdigest()


def test_prompts_have_no_round_folder_and_an_empty_table_no_file(store_root: str) -> None:
    publish_rows(store_root, "key", prompts=[prompt("p1")], templates=[])
    (file,) = Ledger(open_store(store_root)).files()
    assert Path(file.path).parent == Path("prompts")
    publish_rows(store_root, "round=0/train-labels/judge@r1", 0, labels=[])
    assert Ledger(open_store(store_root)).head() == 1


def test_labels_get_the_purpose_of_their_rollouts(store_root: str) -> None:
    rows = [rollout(0, "p1"), rollout(0, "t1", purpose="train")]
    labels = [label(row, 0.5) | {"purpose": None} for row in rows]
    publish_rows(store_root, "rollouts", 0, rollouts=rows)
    publish_rows(store_root, "labels", 0, labels=labels)
    found = read_table(store_root, "labels", columns=["rollout_id", "purpose"]).to_pylist()
    assert {row["rollout_id"]: row["purpose"] for row in found} == {
        "0-p1-0": "holdout",
        "0-t1-0": "train",
    }
    wrong = label(rows[0], 0.5, "other", purpose="train")
    with pytest.raises(PublishRefused, match="orphan_labels"):
        publish_rows(store_root, "wrong", 0, labels=[wrong])


def test_a_table_over_several_rounds_gets_a_file_for_each(store_root: str) -> None:
    publish_rows(store_root, "key", rollouts=[rollout(0, "p1"), rollout(1, "p1")])
    assert [file.round for file in Ledger(open_store(store_root)).files()] == [0, 1]
    assert read_table(store_root, "rollouts", rounds=[1]).column("rollout_id").to_pylist() == [
        "1-p1-0"
    ]


def test_imported_rows_without_a_round_are_kept(store_root: str) -> None:
    publish_rows(store_root, "key", rollouts=[rollout(0, "p1") | {"round": None}])
    (file,) = Ledger(open_store(store_root)).files()
    assert (file.round, Path(file.path).parent) == (None, Path("rollouts"))


# Refusals


def test_a_key_is_refused_before_anything_is_written(store_root: str) -> None:
    publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1")])
    before = open_store(store_root).entries("")
    with pytest.raises(AlreadyPublished, match="key"):
        publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p2")])
    assert open_store(store_root).entries("") == before


def test_a_repeated_key_within_the_rows_is_refused(store_root: str) -> None:
    with pytest.raises(PublishRefused, match=r"rollouts: key \(rollout_id\).*\n.*0-p1-0"):
        publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1"), rollout(0, "p1")])


def test_known_prompts_are_left_out_and_changed_ones_refused(store_root: str) -> None:
    publish_rows(store_root, "one", prompts=[prompt("p1"), prompt("p2")])
    publish_rows(store_root, "two", prompts=[prompt("p2"), prompt("p3")])
    assert read_table(store_root, "prompts").column("prompt_id").to_pylist() == ["p1", "p2", "p3"]
    with pytest.raises(PublishRefused, match=r"another content.*\n.*p1"):
        publish_rows(store_root, "three", prompts=[prompt("p1", purpose="train")])


def test_rows_of_another_round_are_refused(store_root: str) -> None:
    with pytest.raises(PublishRefused, match=r"rows of \{1\} in the commit of round 0"):
        publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1"), rollout(1, "p1")])


@pytest.mark.parametrize(
    "columns", [{"temperature": float("nan")}, {"behavior_logprobs": [0.0, float("nan"), 0.0]}]
)
def test_a_nan_is_refused(store_root: str, columns: dict[str, object]) -> None:
    with pytest.raises(PublishRefused, match=f"NaN in {next(iter(columns))}"):
        publish_rows(store_root, "key", 0, rollouts=[rollout(0, "p1", **columns)])


def test_a_nan_inside_a_reward_term_is_refused(store_root: str) -> None:
    row = rollout(0, "t1")
    bad = reward(row, 1.0, [label(row, 0.5)])
    bad["terms"][0]["contribution"] = float("nan")
    with pytest.raises(PublishRefused, match="NaN in terms"):
        publish_rows(store_root, "key", 0, rewards=[bad])


def test_an_unknown_table_or_column_is_refused(store_root: str) -> None:
    with pytest.raises(PublishRefused, match="no table ghosts"):
        publish(store_root, "key", {"ghosts": pa.table({"a": [1]})})
    with pytest.raises(SchemaMismatch, match="prompts: unknown columns"):
        publish(store_root, "key", {"prompts": pa.table({"mood": ["good"]})})


ROLLOUT = rollout(0, "p1")
LABEL = label(ROLLOUT, 0.5)
BAD: dict[str, dict[str, list[dict[str, object]]]] = {
    "unique_label_id": {"labels": [LABEL | {"label_key": "other"}]},
    "one_final_label_per_key": {"labels": [LABEL, label(ROLLOUT, 0.4, attempt=2)]},
    "score_null_unless_ok": {"labels": [LABEL | {"status": "malformed"}]},
    "score_in_range": {"labels": [LABEL | {"score": 1.5}]},
    "logprobs_match_tokens": {"rollouts": [rollout(0, "p2", behavior_logprobs=[-1.0])]},
    "orphan_labels": {"labels": [LABEL | {"rollout_id": "0-p9-0"}]},
    "orphan_rewards": {"rewards": [reward(ROLLOUT, 1.0, [LABEL])]},
    "reward_null_unless_eligible": {"rewards": [reward(ROLLOUT, 1.0, is_eligible=False)]},
    "unknown_status": {"labels": [LABEL | {"status": "meh", "score": None}]},
    "holdout_not_trained": {
        "train_use": [
            {
                "training_run_id": "t",
                "round": 0,
                "rollout_id": "0-p1-0",
                "is_used": True,
                "epochs": 1,
            }
        ]
    },
    "sums_of_labels": {
        "prompt_sums": [
            {
                "round": 0,
                "prompt_id": "p1",
                "labeler": "meter",
                "revision": "r1",
                "criterion": "toxicity",
                "role": "metric",
                "completions": 1,
                "high_count": 0,
                "score_sum": 0.25,
                "score_squares": 0.0625,
                "score_max": 0.25,
                "last_labeled_at": NOON,
            }
        ]
    },
    "readable_messages": {"prompts": [prompt("p1", messages="not JSON")]},
}


@pytest.mark.parametrize("check", load_checks())
def test_every_check_refuses_its_bad_fixture(store_root: str, check: str) -> None:
    publish_rows(store_root, "rollouts", 0, rollouts=[ROLLOUT])
    if check == "unique_label_id":
        # Within one commit and over what is live.
        publish_rows(store_root, "labels", 0, labels=[LABEL])
    before = open_store(store_root).list("")
    with pytest.raises(PublishRefused, match=f"check {check} found bad rows"):
        publish_rows(store_root, "bad", None, **BAD[check])
    assert open_store(store_root).list("") == before


@pytest.mark.parametrize(
    "bad",
    [
        {"rollouts": [rollout(0, "p2", behavior_logprobs=[-1.0, float("-inf"), -1.0])]},
        {"rollouts": [rollout(0, "p2", behavior_logprobs=[-1.0, None, -1.0])]},
        {"rollouts": [rollout(0, "p2", completion_ids=None)]},
        {"labels": [label(ROLLOUT, None, status="ok")]},
        {"labels": [LABEL | {"partner_rollout_id": "0-p9-0"}]},
        {"labels": [LABEL | {"is_final": False}]},
        {"labels": [LABEL | {"score": float("inf")}]},
        {"rewards": [reward(rollout(0, "p9"), 1.0)]},
        {"rewards": [reward(ROLLOUT, float("inf"))]},
    ],
)
def test_the_checks_see_the_less_obvious_cases(
    store_root: str, bad: dict[str, list[dict[str, object]]]
) -> None:
    publish_rows(store_root, "rollouts", 0, rollouts=[ROLLOUT])
    with pytest.raises(PublishRefused, match="check"):
        publish_rows(store_root, "bad", 0, **bad)


def test_a_replayed_holdout_rollout_of_an_earlier_round_is_seen(store_root: str) -> None:
    publish_rows(store_root, "rollouts", 0, rollouts=[ROLLOUT])
    (use,) = BAD["holdout_not_trained"]["train_use"]
    with pytest.raises(PublishRefused, match="holdout_not_trained"):
        publish_rows(store_root, "bad", 3, train_use=[use | {"round": 3, "source_round": 0}])


def test_the_statuses_of_the_check_are_those_of_the_schema() -> None:
    sql = load_checks()["unknown_status"]
    assert sorted(sql.partition("not in")[2].split("'")[1::2]) == sorted(STATUSES)


# Replacing, staging


def test_removed_files_leave_the_next_version_only(store_root: str) -> None:
    publish_rows(store_root, "one", 0, rollouts=[rollout(0, "p1", completion="old")])
    (old,) = Ledger(open_store(store_root)).files()
    rows = table_from_rows("rollouts", [rollout(0, "p1", completion="new")])
    publish(store_root, "two", {"rollouts": rows}, round=0, remove=[old.path])
    assert read_table(store_root, "rollouts").column("completion").to_pylist() == ["new"]
    assert read_table(store_root, "rollouts", as_of=0).column("completion").to_pylist() == ["old"]


def test_staged_shards_are_read_in_order_and_a_bad_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "round=9"
    folder.mkdir()
    for name in ("b", "a"):
        rows = table_from_rows("rollouts", [rollout(0, name)])
        pq.write_table(rows, folder / f"{name}.parquet")
    paths = [folder / "b.parquet", folder / "a.parquet"]
    rows = read_staged(paths, "rollouts")
    assert rows.column("prompt_id").to_pylist() == ["b", "a"]
    assert rows.column("round").to_pylist() == [0, 0]
    assert read_staged([], "rollouts").schema == TABLES["rollouts"].schema
    (folder / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptFile, match=r"c\.parquet"):
        read_staged([folder / "c.parquet"], "rollouts")
    pq.write_table(pa.table({"mood": ["good"]}), folder / "d.parquet")
    with pytest.raises(SchemaMismatch, match=r"d\.parquet"):
        read_staged([folder / "d.parquet"], "rollouts")


# Kills and races


def publish_until(root: Path, calls: int) -> None:
    """Publishes rollouts, labels and their sums; dies before call `calls` to link or fsync."""
    left = iter(range(calls))

    def or_die(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: object) -> None:
            if next(left, None) is None:
                os._exit(9)
            call(*args)

        return counted

    os.link, os.fsync = or_die(os.link), or_die(os.fsync)
    publish_rows(root, "key", 0, rollouts=[ROLLOUT], labels=[LABEL])


def test_killed_at_any_step_publish_shows_all_or_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    # What DuckDB and pyarrow would import in each of them.
    context.set_forkserver_preload([__name__, "pandas", "pyarrow.dataset"])
    shown = []
    for calls in range(40):
        root = tmp_path / str(calls)
        process = context.Process(target=publish_until, args=(root, calls))
        process.start()
        process.join()
        tables = {file.table for file in Ledger(open_store(root)).files()}
        assert tables in (set(), {"rollouts", "labels", "prompt_sums"})
        shown.append(bool(tables))
        if not tables:
            publish_rows(root, "key", 0, rollouts=[ROLLOUT], labels=[LABEL])
        assert read_table(root, "labels").num_rows == 1
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
    # Four objects of at least file, link and folder each; visible from the link of the commit on,
    # so of all deaths only the one before the last fsync comes too late.
    assert len(shown) > 12
    assert shown == sorted(shown)
    assert sum(shown) == 2


def test_a_key_that_another_process_publishes_during_the_checks_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows must not look like rows that stand twice."""
    forgotten = publishing.forgotten

    def meanwhile(commits: list[Commit]) -> Forgotten:
        monkeypatch.setattr(publishing, "forgotten", forgotten)
        publish_rows(tmp_path, "key", 0, rollouts=[ROLLOUT], labels=[LABEL])
        return forgotten(commits)

    monkeypatch.setattr(publishing, "forgotten", meanwhile)
    with pytest.raises(AlreadyPublished):
        publish_rows(tmp_path, "key", 0, rollouts=[ROLLOUT], labels=[LABEL])
    assert read_table(tmp_path, "labels").num_rows == 1


def test_a_forget_that_deletes_files_during_the_checks_only_repeats_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(tmp_path, "prompts", prompts=[prompt("p1"), prompt("p2")])
    run_checks = publishing.run_checks

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr(publishing, "run_checks", run_checks)
        forget(tmp_path, ["p2"], by="me", why="asked")
        run_checks(*args)

    monkeypatch.setattr(publishing, "run_checks", meanwhile)
    rows = [prompt("p2"), prompt("p3")]
    publish_rows(tmp_path, "more", 0, prompts=rows, rollouts=[ROLLOUT])
    assert read_table(tmp_path, "prompts").column("prompt_id").to_pylist() == ["p1", "p3"]


def publish_one(root: Path, _: int) -> str:
    try:
        publish_rows(root, "key", 0, rollouts=[ROLLOUT])
    except AlreadyPublished:
        return "refused"
    return "published"


def test_of_two_publishers_of_one_key_one_wins(store_root: str) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        outcomes = pool.starmap(publish_one, [(store_root, 0), (store_root, 1)])
    assert sorted(outcomes) == ["published", "refused"]
    assert read_table(store_root, "rollouts").num_rows == 1
