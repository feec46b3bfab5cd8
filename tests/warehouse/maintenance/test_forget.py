"""forget: the prompt leaves every table and version, and does not come back, on both stores."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import (
    label,
    prompt,
    publish_rows,
    put_copy,
    reward,
    rollout,
    small_warehouse,
)
from tests.warehouse.maintenance.test_vacuum import keys
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.errors import CorruptFile, WarehouseError
from warehouse.ledger.commits import FORGET, LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.suppression import TrainedOnForgotten, forgotten, id_hash, text_hash
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.verify import verify
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store

SECRET = "My name is Jane Roe and I live at 7 Elm Street."
SAY = {"by": "ann", "why": "asked by mail"}
HOLDS_PROMPTS = (
    *("prompts", "rollouts", "labels", "prompt_sums", "rewards", "train_use", "preference_pairs"),
    *("gold", "policy_logprobs", "dead_letters"),
)


def used(of: dict[str, object], **columns: object) -> dict[str, object]:
    about = {"training_run_id": "run-0", "round": 0, "source_round": 0, "is_used": True}
    return about | {"rollout_id": of["rollout_id"], "epochs": 1} | columns


def fill(root: str | Path) -> None:
    put_copy(_publish_filled, root)


def _publish_filled(root: Path) -> None:
    """The small warehouse, and rows about prompt t1, whose text is the secret, in every table."""
    small_warehouse(root)
    turns = [{"role": "user", "content": SECRET}]
    publish_rows(
        root,
        "more-prompts",
        prompts=[
            prompt("jane", messages=json.dumps(turns), purpose="train", first_turn_sha256="j"),
            prompt("twin", purpose="train", first_turn_sha256="j"),
        ],
    )
    ours = [rollout(0, "jane", k, purpose="train", completion=f"{SECRET} {k}") for k in (0, 1)]
    other = rollout(0, "twin", 0, purpose="train")
    publish_rows(root, "round=0/more-rollouts", 0, rollouts=[*ours, other])
    labels = [
        label(row, 0.5, "hate", rendered_prompt=SECRET, raw_output=SECRET, request_id=f"call-{n}")
        for n, row in enumerate(ours)
    ]
    publish_rows(root, "round=0/more-labels", 0, labels=[*labels, label(other, 0.5, "hate")])
    publish_rows(
        root,
        "round=0/rest",
        0,
        rewards=[reward(row, 1.0) for row in [*ours, other]],
        train_use=[used(row) for row in [*ours, other]],
        policy_logprobs=[
            {"rollout_id": row["rollout_id"], "round": 0, "policy_revision": "policy-0",
             "role": "reference", "logprobs": [-1.0]}
            for row in [*ours, other]
        ],
        preference_pairs=[
            {"prompt_id": "jane", "round": 0, "recipe": "r", "chosen_id": ours[0]["rollout_id"],
             "rejected_id": ours[1]["rollout_id"], "margin": 1.0}
        ],
        gold=[
            {"rollout_id": row["rollout_id"], "round": 0, "criterion": "toxicity",
             "annotator": "ann", "score": 1.0, "comment": comment}
            for row, comment in [(ours[0], SECRET), (other, None)]
        ],
        dead_letters=[
            dead("labels", "0-jane-9"), dead("rollouts", "jane"), dead("rollouts", "twin"),
            dead("import", "file:7", payload=json.dumps({"broken": SECRET})),
            dead("import", "file:8", payload="something else"),
        ],
    )  # fmt: skip
    meta = {"policy_revision": "policy-1", "training_run_id": "run-0"}
    Ledger(open_store(root)).append("round=0/its-training", [], meta=meta)


def dead(stage: str, row_id: str, **columns: object) -> dict[str, object]:
    about = {"stage": stage, "round": 0, "row_id": row_id, "error_type": "X", "message": "failed"}
    return about | {"attempt": 1, "failed_at": prompt("x")["ingested_at"]} | columns


def counts(root: str | Path, as_of: int | None = None) -> dict[str, int]:
    return {name: read_table(root, name, as_of=as_of).num_rows for name in TABLES}


def data_bytes(root: str | Path) -> bytes:
    """All rows of all files that lie in the store, whether the ledger knows them or not."""
    store = open_store(root)
    data = [store.get(key) for key in sorted(keys(root)) if key.endswith(".parquet")]
    rows = [pq.read_table(pa.BufferReader(file)).to_pylist() for file in data]
    return json.dumps(rows, default=str).encode() + b"".join(
        store.get(key) for key in keys(root) if key.startswith("_ledger/")
    )


def test_every_table_and_version_is_without_the_prompt(store_root: str) -> None:
    fill(store_root)
    head = Ledger(open_store(store_root)).head()
    before = {version: counts(store_root, version) for version in (0, 4, head)}
    assert SECRET.encode() in data_bytes(store_root)

    done = forget(store_root, ["jane"], **SAY)

    lost = dict(done.traces.rows)
    assert lost == {
        "prompts": 1, "rollouts": 2, "labels": 2, "rewards": 2, "train_use": 2,
        "policy_logprobs": 2, "preference_pairs": 1, "gold": 1, "dead_letters": 3,
    }  # fmt: skip
    assert done.version == head + 1
    everything = data_bytes(store_root)
    assert SECRET.encode() not in everything
    assert b"jane" not in everything
    assert counts(store_root, 0) == before[0]
    assert counts(store_root, 4) == before[4]
    for version in (head, head + 1, None):
        now = counts(store_root, version)
        assert {name: before[head][name] - now[name] for name in now if lost.get(name)} == lost
    # Of `twin`, which has files in common with the forgotten prompt, everything is there.
    con = connect(store_root, head)
    for table in ("rollouts", "labels", "rewards", "train_use", "gold", "policy_logprobs"):
        query = f"select count(*) from {table} where rollout_id = '0-twin-0'"
        assert con.sql(query).fetchall() == [(1,)], table
    assert verify(store_root, all_versions=True).problems == ()


def test_the_report_names_what_it_found_and_cannot_reach(warehouse: Path, tmp_path: Path) -> None:
    root = tmp_path / "filled"
    fill(root)
    open_store(root).put("labels/round=0/orphan.parquet", b"who knows")
    plan = forget(root, ["jane"], **SAY, dry_run=True)
    before = keys(root)
    assert plan.version is None
    assert keys(root) == before
    assert plan.policies == ((0, "run-0", "policy-1"),)
    assert plan.siblings == ("twin",)
    assert plan.orphans == 1
    assert plan.traces.request_ids == {"call-0", "call-1"}
    assert plan.traces.outputs == {SECRET}
    done = forget(root, ["jane"], **SAY)
    assert (done.policies, done.siblings, done.traces.rows) == (
        plan.policies, plan.siblings, plan.traces.rows,
    )  # fmt: skip
    assert done.deleted == done.files > 5
    again = forget(root, ["jane"], **SAY)  # nothing is found any more, what was is remembered
    assert (again.version, again.policies) == (None, plan.policies)


def test_the_ledger_remembers_who_and_why_but_no_id(warehouse: Path) -> None:
    forget(warehouse, ["t1"], by="ann", why="asked")
    commit = Ledger(open_store(warehouse)).commits()[-1]
    assert (commit.operation, commit.meta["by"], commit.meta["why"]) == (FORGET, "ann", "asked")
    gone = forgotten(Ledger(open_store(warehouse)).commits())
    assert gone.prompts == {id_hash("t1"), text_hash(str(prompt("t1")["messages"]))}
    assert gone.rollouts == {id_hash("0-t1-0"), id_hash("0-t1-1")}
    text = (warehouse / "_ledger" / f"{commit.version:010d}.json").read_text()
    assert '"t1"' not in text
    assert "0-t1-0" not in text


def test_a_file_of_nothing_else_is_dropped(warehouse: Path) -> None:
    """Round 0's train rollouts, labels and rewards are all of prompt t1."""
    forget(warehouse, ["t1"], **SAY)
    commit = Ledger(open_store(warehouse)).commits()[-1]
    assert sorted(file is None for file in commit.replace.values()) == [False, True, True, True]
    assert read_table(warehouse, "rewards").num_rows == 0
    key = "round=0/rewards"
    assert read_table(warehouse, "rewards", keys=[key]).num_rows == 0
    assert connect(warehouse).sql("select * from toxicity_by_round").fetchall()


def test_views_and_lineage_of_the_ledger_know_the_new_files(warehouse: Path) -> None:
    from warehouse.lineage.rows import trace_file
    from warehouse.lineage.trace import Lineage

    key = "round=1/eval-labels/meter@r1"
    forget(warehouse, ["p1"], **SAY)
    (file,) = Ledger(open_store(warehouse)).files_of([key], table="labels")
    versions = connect(warehouse).sql(
        "select version from files where path = $p", params={"p": file.path}
    )
    commit = Ledger(open_store(warehouse)).find(key)
    assert commit is not None
    assert versions.fetchall() == [(commit.version,)]
    trace = trace_file(Lineage(warehouse), file.path)
    assert [row["label_id"] for row in trace["rows"]] == [
        "1-p2-0/meter/r1/0/1",
        "1-p2-1/meter/r1/0/1",
    ]


def test_forgetting_one_after_the_other_and_all_at_once_are_the_same(
    warehouse: Path, tmp_path: Path
) -> None:
    other = small_warehouse(tmp_path / "other")
    forget(warehouse, ["p1"], **SAY)
    forget(warehouse, ["t1"], **SAY)
    forget(other, ["p1", "t1"], **SAY)
    head = Ledger(open_store(other)).head() - 1
    for version in range(head + 1):
        assert counts(warehouse, version) == counts(other, version)
    assert verify(warehouse, all_versions=True).problems == ()
    done = forget(warehouse, ["p1"], **SAY)  # again: nothing is left
    assert (done.version, done.files, done.deleted) == (None, 0, 0)


def test_work_of_a_key_and_removal_know_the_new_files(warehouse: Path) -> None:
    """What was read before a forget is removed by its old path or by its new one: a Conflict."""
    ledger = Ledger(open_store(warehouse))
    key = "round=1/eval-labels/meter@r1"
    (old,) = ledger.files_of([key], table="labels")
    forget(warehouse, ["p1"], **SAY)
    (new,) = ledger.files_of([key], table="labels")
    assert (old.rows, new.rows) == (4, 2)
    assert ledger.files_of([key], as_of=6, table="labels") == [new]
    rows = [label(rollout(1, "p2", k), 0.1) for k in (0, 1)]
    from warehouse.errors import Conflict
    from warehouse.publish import publish
    from warehouse.schemas import table_from_rows

    fresh = {"labels": table_from_rows("labels", rows)}
    with pytest.raises(Conflict, match="not live"):
        publish(warehouse, f"{key}/replay-1", fresh, remove=[old.path], meta={"amends": key})
    publish(warehouse, f"{key}/replay-1", fresh, remove=[new.path], meta={"amends": key})
    assert read_table(warehouse, "labels", keys=[key])["score"].to_pylist() == [0.1, 0.1]
    assert read_table(warehouse, "labels", keys=[key], as_of=6)["score"].to_pylist() == [0.3, 0.7]


@pytest.mark.parametrize(
    ("ids", "by", "why", "message"),
    [
        (["nobody"], "ann", "asked", "no version has a prompt nobody"),
        (["t1", "a", "b"], "ann", "asked", r"prompt a \(nor 1 more"),
        ([], "ann", "asked", "name prompts"),
        (["t1"], " ", "asked", "--by"),
        (["t1"], "ann", "", "--why"),
    ],
)
def test_wrong_use_changes_nothing(
    warehouse: Path, ids: list[str], by: str, why: str, message: str
) -> None:
    before = keys(warehouse)
    with pytest.raises(WarehouseError, match=message):
        forget(warehouse, ids, by=by, why=why)
    assert keys(warehouse) == before


def test_a_damaged_file_stops_it_before_the_commit(warehouse: Path) -> None:
    (file,) = Ledger(open_store(warehouse)).files(table="rewards")
    data = bytearray((warehouse / file.path).read_bytes())
    data[20] ^= 1
    (warehouse / file.path).write_bytes(bytes(data))
    head = Ledger(open_store(warehouse)).head()
    with pytest.raises(CorruptFile, match=file.path):
        forget(warehouse, ["t1"], **SAY)
    assert Ledger(open_store(warehouse)).head() == head


def test_files_of_an_older_schema_version_keep_their_columns(tmp_path: Path) -> None:
    rows = [rollout(0, name) for name in ("p1", "p2")]
    old = table_from_rows("rollouts", rows).drop_columns(["dtype"])
    (tmp_path / "rollouts").mkdir()
    pq.write_table(old, tmp_path / "rollouts" / "old.parquet")
    data = (tmp_path / "rollouts" / "old.parquet").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = LiveFile("rollouts", 0, "rollouts/old.parquet", 2, len(data), sha256, schema_version=0)
    Ledger(open_store(tmp_path)).append("old", [file])
    forget(tmp_path, ["p1"], **SAY)
    (left,) = Ledger(open_store(tmp_path)).files()
    assert (left.schema_version, left.rows) == (0, 1)
    assert "dtype" not in pq.read_schema(tmp_path / left.path).names
    assert read_table(tmp_path, "rollouts")["rollout_id"].to_pylist() == ["0-p2-0"]
    assert verify(tmp_path, all_versions=True).problems == ()


def test_the_sums_of_scores_are_those_of_the_prompts_that_stay(warehouse: Path) -> None:
    """Of .9 .2 | .6 .4 and .1 .2 | .3 .7 the second prompt's halves are left, in every version."""
    head = Ledger(open_store(warehouse)).head()
    forget(warehouse, ["p1"], **SAY)
    for version in (head, None):
        query = "select prompts, completions, mean_score from toxicity_by_round order by round"
        means = connect(warehouse, version).sql(query).fetchall()
        assert means == [(1, 2, pytest.approx(0.5)), (1, 2, pytest.approx(0.5))]
        assert read_table(warehouse, "prompt_sums", as_of=version)[
            "prompt_id"
        ].unique().to_pylist() == ["p2"]
    again = [label(rollout(1, "p2", k), 0.5, "other") for k in (0, 1)]
    publish_rows(warehouse, "the check of all sums of the round", 1, labels=again)


# Coming back


def test_published_again_it_stays_out(warehouse: Path) -> None:
    forget(warehouse, ["t1"], **SAY)
    publish_rows(
        warehouse,
        "again",
        prompts=[prompt("t1", purpose="train"), prompt("new")],
        dead_letters=[dead("rollouts", "t1"), dead("rollouts", "new")],
        gold=[{"rollout_id": "0-t1-0", "criterion": "c", "annotator": "a", "score": 1.0}],
    )
    publish_rows(warehouse, "x", 5, rollouts=[rollout(5, "t1"), rollout(5, "new")])
    ids = read_table(warehouse, "prompts")["prompt_id"].to_pylist()
    assert sorted(ids) == ["new", "p1", "p2"]
    assert read_table(warehouse, "rollouts", rounds=[5])["prompt_id"].to_pylist() == ["new"]
    assert read_table(warehouse, "gold").num_rows == 0
    assert read_table(warehouse, "dead_letters")["row_id"].to_pylist() == ["new"]


def test_the_same_text_under_another_id_stays_out_with_all_its_rows(warehouse: Path) -> None:
    forget(warehouse, ["t1"], **SAY)
    loud = json.dumps([{"role": "user", "content": "  QUESTION  t1? "}])
    publish_rows(
        warehouse,
        "imported",
        prompts=[prompt("import-77", messages=loud), prompt("import-78")],
        rollouts=[rollout(4, "import-77"), rollout(4, "import-78")],
    )
    assert "import-77" not in read_table(warehouse, "prompts")["prompt_id"].to_pylist()
    assert read_table(warehouse, "rollouts", rounds=[4])["prompt_id"].to_pylist() == ["import-78"]


def test_a_training_on_rows_forgotten_meanwhile_is_refused(warehouse: Path) -> None:
    ours = rollout(0, "t1", 0)
    forget(warehouse, ["t1"], **SAY)
    with pytest.raises(TrainedOnForgotten, match=r"round=0/train.*run it again"):
        publish_rows(warehouse, "round=0/train", 0, train_use=[used(ours)])
    assert Ledger(open_store(warehouse)).find("round=0/train") is None
    publish_rows(
        warehouse,
        "round=0/train",
        0,
        train_use=[used(row, is_used=False) for row in (ours, rollout(0, "p1"))],
    )
    assert read_table(warehouse, "train_use")["rollout_id"].to_pylist() == ["0-p1-0"]


def between(monkeypatch: pytest.MonkeyPatch, act: object) -> None:
    """Runs `act` once, after the next publish has put its files and before it commits."""
    real = Ledger.append

    def append(self: Ledger, *arguments: object, **options: object) -> object:
        monkeypatch.setattr(Ledger, "append", real)
        act()
        return real(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "append", append)


def test_a_publish_that_began_before_the_forget_commits_without_the_rows(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, lambda: forget(warehouse, ["t1"], **SAY))
    rows = [rollout(3, name, completion=SECRET) for name in ("t1", "p1")]
    publish_rows(warehouse, "late", 3, rollouts=rows)
    assert read_table(warehouse, "rollouts", rounds=[3])["prompt_id"].to_pylist() == ["p1"]
    assert verify(warehouse).orphans == ()  # the first try's file, which held the row, is gone
    assert b"3-t1-0" not in data_bytes(warehouse)
    commits = Ledger(open_store(warehouse)).commits()
    assert [commit.key for commit in commits[-2:]] == ["forget/0", "late"]


def test_a_publish_that_comes_between_is_searched_as_well(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [rollout(3, name) for name in ("t1", "p1")]
    between(monkeypatch, lambda: publish_rows(warehouse, "between", 3, rollouts=rows))
    done = forget(warehouse, ["t1"], **SAY)
    assert read_table(warehouse, "rollouts", rounds=[3])["prompt_id"].to_pylist() == ["p1"]
    assert done.traces.rows["rollouts"] == 3
    assert id_hash("3-t1-0") in forgotten(Ledger(open_store(warehouse)).commits()).rollouts
    assert verify(warehouse, all_versions=True).problems == ()


def test_two_forgets_of_the_same_prompt_at_once(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, lambda: forget(warehouse, ["t1"], **SAY))
    done = forget(warehouse, ["t1"], **SAY)
    assert done.version is None
    operations = [commit.operation for commit in Ledger(open_store(warehouse)).commits()]
    assert operations.count(FORGET) == 1
    assert verify(warehouse, all_versions=True).problems == ()


# Killed


@pytest.mark.parametrize("step", ["put_file", "append", "delete"])
def test_a_forget_killed_at_any_step_leaves_a_readable_warehouse(
    warehouse: Path, step: str
) -> None:
    """`put_file`: after one new file; `append`: before the commit; `delete`: after one deletion."""
    script = f"""
import os
from warehouse.store.folder import FolderStore
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.forgetting import forget

owner, calls = (Ledger if {step!r} == "append" else FolderStore), 0
real = getattr(owner, {step!r})

def dies(self, *arguments, **options):
    global calls
    if calls == (0 if {step!r} == "append" else 1):
        os._exit(9)
    calls += 1
    return real(self, *arguments, **options)

setattr(owner, {step!r}, dies)
forget({str(warehouse)!r}, ["t1", "p1"], by="ann", why="asked")
"""
    head, before = Ledger(open_store(warehouse)).head(), counts(warehouse)
    killed = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
    assert killed.returncode == 9
    if step == "delete":
        problems = verify(warehouse, all_versions=True).problems
        assert {problem.kind for problem in problems} == {"forgotten"}
        assert read_table(warehouse, "prompts", as_of=head).num_rows == before["prompts"] - 2
    else:
        assert verify(warehouse, all_versions=True).problems == ()
        assert counts(warehouse) == before
    forget(warehouse, ["t1", "p1"], by="ann", why="asked")
    assert verify(warehouse, all_versions=True).problems == ()
    assert b"t1-0" not in data_bytes(warehouse)
    assert read_table(warehouse, "prompts", as_of=head)["prompt_id"].to_pylist() == ["p2"]


def test_what_a_killed_forget_left_goes_with_a_vacuum_at_once(warehouse: Path) -> None:
    from warehouse.maintenance.vacuum import vacuum

    ledger = Ledger(open_store(warehouse))
    (file,) = ledger.files(table="rewards")
    data = (warehouse / file.path).read_bytes()
    forget(warehouse, ["t1"], **SAY)
    open_store(warehouse).put(file.path, data)  # as if it had not come to the deletion
    assert [entry.key for entry in vacuum(warehouse).leftovers] == [file.path]
    assert file.path not in keys(warehouse)
