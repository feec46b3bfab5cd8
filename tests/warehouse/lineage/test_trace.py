"""Lineage: from a number to files, rows and commits, and from a policy to what trained it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.builder import (
    NOON,
    Row,
    label,
    prompt,
    publish_rows,
    put_copy,
    reward,
    rollout,
    round_row,
)
from warehouse.ledger.ledger import Ledger
from warehouse.lineage.numbers import trace_number
from warehouse.lineage.policies import known_revision, stored_record, trace_policy, trace_record
from warehouse.lineage.rows import trace_file, trace_label, trace_rollout
from warehouse.lineage.trace import Lineage, NotFound, trace_round
from warehouse.maintenance.compaction import compact
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

CONFIG = {"seed": 7, "training": {"epochs": 2}}


def number(round: int, metric: str, value: float, labeler: str | None = None) -> Row:
    return {
        "round": round,
        "policy_revision": f"policy-{round}",
        "labeler": labeler,
        "metric": metric,
        "value": value,
        "unit": "share",
        "method": "mean",
        "prompts": 1,
        "completions": 1,
        "samples_per_prompt": 1,
    }


def two_nights(root: str | Path) -> None:
    put_copy(_publish_two_nights, root)


def _publish_two_nights(root: Path) -> None:
    """Policy-0 evaluated, a night that trains policy-1 on three rollouts (one left out), its
    evaluation with the night's row; then a later revision labels round 1's hold-out anew."""
    publish_rows(root, "prompts", prompts=[prompt("p1"), prompt("t1", purpose="train")])
    for r in (0, 1):
        held = rollout(r, "p1", seed=40 + r, temperature=1.0)
        publish_rows(root, f"round={r}/eval-rollouts", r, rollouts=[held])
        used = label(held, 0.9 - r / 2, template_sha256="rubric")
        publish_rows(root, f"round={r}/eval-labels/meter@r1", r, labels=[used])
        if r == 0:
            rubric = {"template_sha256": "rubric", "kind": "rubric", "name": "n", "version": "1"}
            publish_rows(root, "templates/rubric", templates=[rubric | {"text": "Rate it."}])
            rates = [number(0, "toxicity_rate", 1.0, "meter")]
            publish_rows(root, "round=0/evaluation", 0, evaluations=rates)
            train_night(root, {"warehouse_version": "7"})
        else:
            rows = [
                number(1, "toxicity_rate", 0.0, "meter"),
                number(1, "toxicity_rate", 0.5, "hate"),
                number(1, "toxicity_change", -1.0, "meter"),
                number(1, "toxicity_change_from_replaced", -1.0, "meter"),
                number(1, "length", 12.0),
            ]
            night = round_row(0, training_run_id="run-0", config=json.dumps(CONFIG), seed=7)
            publish_rows(root, "round=1/evaluation", evaluations=rows, rounds=[night])
            late = {"revision": "r2", "labeled_at": NOON + timedelta(hours=1)}
            again = label(held, 0.1, **late)
            publish_rows(root, "round=1/eval-labels/meter@r2", 1, labels=[again])


def train_night(root: str | Path, read: dict[str, str] | None = None) -> None:
    """Round 0 trains policy-1: two rollouts are used, one is left out. `read` joins the meta."""
    rollouts = [rollout(0, "t1", k, purpose="train", seed=k) for k in range(3)]
    labels = [label(row, 0.5, "hate", role="reward") for row in rollouts]
    rewards = [reward(row, float(k), [labels[k]]) for k, row in enumerate(rollouts)]
    publish_rows(root, "round=0/train-rollouts", 0, rollouts=rollouts)
    publish_rows(root, "round=0/train-labels/hate@r1", 0, labels=labels)
    publish_rows(root, "round=0/rewards", 0, rewards=rewards)
    use = [
        {
            "training_run_id": "run-0",
            "round": 0,
            "rollout_id": row["rollout_id"],
            "source_round": 0,
            "is_used": k < 2,
            "excluded_reason": None if k < 2 else "truncated",
            "reward": float(k),
            "importance_weight": 1.0 if k < 2 else None,
            "epochs": 2 if k < 2 else 0,
        }
        for k, row in enumerate(rollouts)
    ]
    publish(
        root,
        "round=0/training",
        {"train_use": table_from_rows("train_use", use)},
        round=0,
        code_version="1.0+abc",
        config_sha256="c0ffee",
        meta={"policy_revision": "policy-1", "training_run_id": "run-0"} | (read or {}),
    )


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    root = tmp_path_factory.mktemp("lineage") / "night"
    two_nights(root)
    return Lineage(root)


def keys(rows: Any) -> list[str]:
    return [row["commit"] for row in rows]


# A number


def test_a_number_leads_to_commit_policy_rows_labels_config_and_files(store_root: str) -> None:
    two_nights(store_root)
    found = trace_number(Lineage(store_root), 1, "toxicity_rate", "meter")
    assert found["number"]["value"] == 0.0
    assert found["written by"]["key"] == "round=1/evaluation"
    assert found["policy"] == {
        "policy_revision": "policy-1",
        "made_by": "round=0/training",
        "version": 8,
        "training_run_id": "run-0",
        "code_version": "1.0+abc",
    }
    assert found["config"]["config"] == CONFIG
    assert (found["config"]["round"], found["config"]["seed"]) == (0, 7)
    (sampling,) = found["sampling"]
    assert (sampling["rollouts"], sampling["lowest_seed"], sampling["temperature"]) == (1, 41, 1.0)
    # The revision that the commit saw, not the one that labeled later.
    (labeler,) = found["labelers"]
    assert (labeler["revision"], labeler["model_revision"], labeler["scores"]) == ("r1", "m1", 1)
    (row,) = found["rows"]
    assert (row["label_id"], row["rollout_id"], row["score"]) == (
        *("1-p1-0/meter/r1/0/1", "1-p1-0", 0.4),
    )
    assert keys(found["files"]) == [
        "round=1/evaluation",
        "round=1/eval-rollouts",
        "round=1/eval-labels/meter@r1",
        "prompts",
        "templates/rubric",
    ]
    store = open_store(store_root, read_only=True)
    for file in found["files"]:
        assert hashlib.sha256(store.get(file["path"])).hexdigest() == file["sha256"]


@pytest.mark.parametrize("metric", ["toxicity_change", "toxicity_change_from_replaced"])
def test_a_difference_leads_to_both_rounds(nights: Lineage, metric: str) -> None:
    found = trace_number(nights, 1, metric, "meter")
    assert [row["rollout_id"] for row in found["rows"]] == ["0-p1-0", "1-p1-0"]
    assert {"round=0/eval-rollouts", "round=0/eval-labels/meter@r1"} <= set(keys(found["files"]))


def test_a_number_without_a_labeler_leads_to_rollouts(nights: Lineage) -> None:
    found = trace_number(nights, 1, "length", None)
    assert [row["rollout_id"] for row in found["rows"]] == ["1-p1-0"]
    assert found["labelers"] == []
    assert keys(found["files"]) == ["round=1/evaluation", "round=1/eval-rollouts", "prompts"]


def test_what_is_not_there_is_named_beside_what_is(nights: Lineage) -> None:
    with pytest.raises(NotFound, match=r"round 9 has no evaluation; there are: \[0, 1\]"):
        trace_number(nights, 9, "length", None)
    with pytest.raises(NotFound, match="no metric mood; there are: length, toxicity_change"):
        trace_number(nights, 1, "mood", None)
    with pytest.raises(NotFound, match="toxicity_rate of round 1 is there by labeler hate, meter"):
        trace_number(nights, 1, "toxicity_rate", None)
    with pytest.raises(NotFound, match=r"no round 5; rounds: \[0, 1\]"):
        trace_round(nights, 5)
    for trace in (trace_rollout, trace_label, trace_file, trace_policy):
        with pytest.raises(NotFound, match="nothing-like-it"):
            trace(nights, "nothing-like-it")


# A round


def test_a_round_names_its_commits_policies_labelers_and_files(nights: Lineage) -> None:
    found = trace_round(nights, 0)
    assert (found["round"]["status"], found["round"]["training_run_id"]) == ("completed", "run-0")
    assert [row["policy_revision"] for row in found["policies"]] == ["policy-0", "policy-1"]
    assert found["policies"][0]["made_by"].startswith("no training here")
    assert [row["key"] for row in found["commits"]] == [
        "round=0/eval-rollouts",
        "round=0/eval-labels/meter@r1",
        "round=0/evaluation",
        "round=0/train-rollouts",
        "round=0/train-labels/hate@r1",
        "round=0/rewards",
        "round=0/training",
    ]
    assert found["commits"][-1]["meta.policy_revision"] == "policy-1"
    assert {(row["labeler"], row["labels"]) for row in found["labelers"]} == {
        *(("hate", 3), ("meter", 1)),
    }
    assert {row["purpose"]: row["rollouts"] for row in found["sampling"]} == {
        "holdout": 1,
        "train": 3,
    }
    assert len(found["files"]) == 9  # a table each, two of labels
    assert found["config"]["config"] == CONFIG


def test_a_round_without_a_verdict_says_so(nights: Lineage) -> None:
    found = trace_round(nights, 1)
    assert found["round"]["status"] == "not decided yet"
    assert "not stored" in found["config"]["config"]


# Rows and files


def test_a_rollout_leads_to_its_labels_rewards_and_trainings(store_root: str) -> None:
    two_nights(store_root)
    found = trace_rollout(Lineage(store_root), "0-t1-1")
    assert (found["rollout"]["seed"], found["prompt"]["prompt_id"]) == (1, "t1")
    assert keys(found["lies in"]) == ["round=0/train-rollouts"]
    (of,) = found["labels"]
    assert (of["label_id"], of["labeler"], of["version"]) == ("0-t1-1/hate/r1/0/1", "hate", 6)
    assert of["path"].startswith("labels/round=0/")
    (scored,) = found["rewards"]
    assert (scored["reward"], scored["label_ids"]) == (1.0, ["0-t1-1/hate/r1/0/1"])
    (use,) = found["trained"]
    assert (use["training_run_id"], use["is_used"], use["trained_revision"]) == (
        *("run-0", True, "policy-1"),
    )


def test_a_label_leads_to_its_template_rewards_and_trainings(nights: Lineage) -> None:
    found = trace_label(nights, "0-t1-0/hate/r1/0/1")
    assert found["label"]["model_revision"] == "m1"
    assert keys(found["lies in"]) == ["round=0/train-labels/hate@r1"]
    assert [row["rollout_id"] for row in found["rewards"]] == ["0-t1-0"]
    assert [row["rollout_id"] for row in found["trained"]] == ["0-t1-0"]
    measured = trace_label(nights, "0-p1-0/meter/r1/0/1")
    assert [row["text"] for row in measured["template"]] == ["Rate it."]
    assert (measured["rewards"], measured["trained"]) == ([], [])


def test_a_file_leads_to_its_commits_and_rows(tmp_path: Path) -> None:
    two_nights(tmp_path)
    old = Lineage(tmp_path).ledger.files(table="rounds")[0].path
    row = round_row(0, status="rejected", training_run_id="run-0")
    publish(
        tmp_path,
        "round=0/acceptance",
        {"rounds": table_from_rows("rounds", [row])},
        round=0,
        remove=[old],
    )
    found = trace_file(Lineage(tmp_path), old)
    assert (found["added by"]["key"], found["file"]["is_live"]) == ("round=1/evaluation", False)
    assert found["removed by"]["key"] == "round=0/acceptance"
    assert found["rows"] == [{"round": 0}]
    open_store(tmp_path).delete(old)
    assert "rows" not in trace_file(Lineage(tmp_path), old)


def test_a_file_that_forget_wrote_leads_to_what_it_replaced(tmp_path: Path) -> None:
    two_nights(tmp_path)
    store = open_store(tmp_path)
    (old,) = Lineage(tmp_path).files_with("rollouts", [1], "rollout_id", ["1-p1-0"])
    new = replace(old, path="rollouts/round=1/rewritten.parquet")
    store.put(new.path, store.get(old.path))
    Ledger(store).append("forget/1", [], operation="forget", replace={old.path: new})
    lineage = Lineage(tmp_path)
    (place,) = trace_rollout(lineage, "1-p1-0")["lies in"]
    assert (place["commit"], place["rewritten_by"]) == ("round=1/eval-rollouts", "forget/1")
    assert trace_file(lineage, old.path)["replaced by"]["key"] == "forget/1"
    assert trace_file(lineage, new.path)["added by"]["key"] == "forget/1"
    # At every version, older ones included.
    (place,) = trace_rollout(lineage.at(10), "1-p1-0")["lies in"]
    assert place["path"] == new.path


def test_compacted_rows_are_still_the_work_of_their_commit(tmp_path: Path) -> None:
    """Of a replay's file and its key's own, one; a number is traced as before."""
    two_nights(tmp_path)
    before = trace_number(Lineage(tmp_path), 1, "toxicity_rate", "meter")
    more = table_from_rows("rollouts", [rollout(1, "p2")])
    key = "round=1/eval-rollouts"
    publish(tmp_path, f"{key}/replay-1", {"rollouts": more}, round=1, meta={"amends": key})
    assert compact(tmp_path)
    lineage = Lineage(tmp_path)
    (place,) = trace_rollout(lineage, "1-p2-0")["lies in"]
    assert (place["commit"], place["rewritten_by"]) == (key, "compact/0")
    after = trace_number(lineage, 1, "toxicity_rate", "meter")
    assert after["rows"] == before["rows"]
    assert after["files"] == before["files"]


# A policy


def test_a_policy_leads_to_the_rows_that_trained_it(store_root: str) -> None:
    two_nights(store_root)
    found = trace_policy(Lineage(store_root), "policy-1")
    assert found["training"]["code_version"] == "1.0+abc"
    assert [row["policy_revision"] for row in found["ancestors"]] == ["policy-0"]
    assert found["config"]["config"] == CONFIG
    assert [(row["rollout_id"], row["importance_weight"]) for row in found["rows"]] == [
        *(("0-t1-0", 1.0), ("0-t1-1", 1.0)),
    ]
    assert found["rows"][0]["label_ids"] == ["0-t1-0/hate/r1/0/1"]
    assert found["left out"] == [{"excluded_reason": "truncated", "rows": 1}]
    assert keys(found["read"]) == ["round=0/train-rollouts", "round=0/rewards"]
    assert [(row["round"], row["purpose"]) for row in found["sampled"]] == [(1, "holdout")]
    assert len(found["measured"]) == 5


def test_a_base_policy_has_no_training(nights: Lineage) -> None:
    found = trace_policy(nights, "policy-0")
    assert "training" not in found
    assert [row["purpose"] for row in found["sampled"]] == ["holdout", "train"]


def test_a_training_that_is_not_evaluated_yet(tmp_path: Path) -> None:
    publish_rows(tmp_path, "prompts", prompts=[prompt("t1", purpose="train")])
    train_night(tmp_path)
    found = trace_policy(Lineage(tmp_path), "policy-1")
    assert [row["rollout_id"] for row in found["rows"]] == ["0-t1-0", "0-t1-1"]
    assert "not been evaluated" in found["config"]["config"]


def test_a_revision_is_known_by_how_it_begins(nights: Lineage) -> None:
    assert known_revision(nights, "policy-1") == "policy-1"
    with pytest.raises(NotFound, match="2 policies begin with pol; policies: policy-0, policy-1"):
        known_revision(nights, "pol")


def test_a_model_of_its_own_record_leads_to_its_rows(nights: Lineage) -> None:
    record = {
        "method": "dpo",
        "policy_revision_in": "policy-1",
        "config": {"beta": 0.1},
        "made_from": {"warehouse_version": "7"},
    }
    ids = {"chosen_id": ["0-t1-1"], "rejected_id": ["0-t1-0"]}
    found = trace_record(nights, "mine", record, ids)
    assert found["base"]["made_by"] == "round=0/training"
    assert [(row["rollout_id"], row["reward"]) for row in found["rows"]] == [
        *(("0-t1-0", 0.0), ("0-t1-1", 1.0)),
    ]
    assert keys(found["read"]) == ["round=0/train-rollouts"]
    assert "not in this warehouse" not in found
    elsewhere = trace_record(nights, "mine", record, {"rollout_id": ["0-t1-1", "gone"]})
    assert elsewhere["not in this warehouse"] == [{"rollout_id": "gone"}]


def test_a_model_kept_in_the_warehouse_says_how_it_was_made(store_root: str) -> None:
    publish_rows(store_root, "prompts", prompts=[prompt("p1")])
    store = open_store(store_root)
    for folder, revision in (("policies", "cafe-dpo"), ("reward-models", "cafe-reward")):
        record = json.dumps({"method": revision}).encode()
        store.put(f"{folder}/{revision}/training.json", record)
    store.put("reward-models/cafe-reward/training_rows.json", b'{"chosen_id": ["x"]}')
    lineage = Lineage(store_root)
    assert known_revision(lineage, "cafe-r") == "cafe-reward"
    assert stored_record(lineage, "cafe-reward") == (
        *({"method": "cafe-reward"}, {"chosen_id": ["x"]}),
    )
    assert stored_record(lineage, "cafe-dpo") == ({"method": "cafe-dpo"}, {})
    assert stored_record(lineage, "cafe") is None
    with pytest.raises(NotFound, match="2 policies begin with cafe"):
        known_revision(lineage, "cafe")


# The views


def test_policies_and_what_became_of_them(nights: Lineage) -> None:
    base, trained = nights.ask("from policy_lineage")
    assert (base["policy_revision"], base["training_run_id"], base["is_kept"]) == (
        *("policy-0", None, True),
    )
    assert (base["sampled_rounds"], base["measured_rounds"]) == ([0], [0])
    assert (trained["policy_revision"], trained["policy_revision_in"]) == ("policy-1", "policy-0")
    assert (trained["trained_round"], trained["rows_used"], trained["is_kept"]) == (0, 2, True)
    assert (trained["sampled_rounds"], trained["measured_rounds"]) == (None, [1])


def test_a_policy_that_was_passed_over_is_listed_as_such(tmp_path: Path) -> None:
    train_night(tmp_path)
    rows = [number(1, "toxicity_rate", 1.0, "meter")]
    columns = {"policy_revision_in": "policy-0", "policy_revision_out": "policy-0"}
    night = round_row(0, status="rejected", training_run_id="run-0", **columns)
    publish_rows(tmp_path, "round=1/evaluation", evaluations=rows, rounds=[night])
    lineage = Lineage(tmp_path)
    kept = {row["policy_revision"]: row["is_kept"] for row in lineage.ask("from policy_lineage")}
    assert kept == {"policy-0": True, "policy-1": False}
    (row,) = lineage.ask(
        "select distinct trained_revision, is_used from training_rows where is_used"
    )
    assert row["trained_revision"] == "policy-1"
