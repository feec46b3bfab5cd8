"""Marts on what commits say of themselves: stages and their speed, trainings, rounds."""

from __future__ import annotations

from pathlib import Path

from tests.warehouse.builder import Row, label, publish_rows, rollout, round_row
from warehouse.catalog.catalog import connect
from warehouse.publish import publish


def rows_of(root: Path, query: str) -> list[Row]:
    return connect(root).sql(query).to_arrow_table().to_pylist()


def work(made: int, seconds: float, tokens: int = 0, unit: str = "labels") -> dict[str, str]:
    return {
        "made": str(made),
        "unit": unit,
        "dead": "1",
        "tokens": str(tokens),
        "load_seconds": "2.500",
        "work_seconds": f"{seconds:.3f}",
    }


def test_speed_by_stage_round_and_labeler(tmp_path: Path) -> None:
    """Commits that say nothing of their work are no rows; a rate needs seconds, tokens a count."""
    stages = {
        "prompts": {"source": "test"},
        "round=12/train-rollouts": work(100, 4.0, 800, "completions"),
        "round=12/train-labels/hate@r1": work(100, 0.5),
        "round=12/train-labels/hate@r1/replay-1": work(3, 0.0),
        "round=12/training": work(96, 10.0, 2000, "rollouts"),
    }
    for key, meta in stages.items():
        publish(tmp_path, key, {}, meta=meta)
    rows = rows_of(tmp_path, "from stage_throughput")
    shown = ("round", "stage", "labeler", "made", "unit", "tokens")
    assert [[row[name] for name in shown] for row in rows] == [
        [12, "train-rollouts", None, 100, "completions", 800],
        [12, "train-labels", "hate", 100, "labels", None],
        [12, "train-labels", "hate", 3, "labels", None],
        [12, "training", None, 96, "rollouts", 2000],
    ]
    assert [row["made_per_second"] for row in rows] == [25.0, 200.0, None, 9.6]
    assert [row["tokens_per_second"] for row in rows] == [200.0, None, None, 200.0]
    assert [row["version"] for row in rows] == [1, 2, 3, 4]
    assert {(row["load_seconds"], row["dead_letters"]) for row in rows} == {(2.5, 1)}


def train(root: Path, round: int, before: str, after: str, **meta: str) -> None:
    about = {"training_run_id": f"run-{round}", "policy_revision": after} | meta
    about |= {"policy_revision_in": before, "recipe_sha256": "recipe-1"}
    publish(root, f"round={round}/training", {}, round=round, code_version="1.0", meta=about)


def test_trainings_before_and_after_their_verdict(tmp_path: Path) -> None:
    more = {"warehouse_version": "4", "kl_coefficient": "0.05", "seed": "7"}
    train(tmp_path, 0, "a", "b", **more)
    train(tmp_path, 1, "b", "c")
    train(tmp_path, 2, "b", "d")
    verdicts = [
        round_row(0, training_run_id="run-0", policy_revision_in="a", policy_revision_out="b"),
        round_row(
            1,
            training_run_id="run-1",
            status="rejected",
            policy_revision_in="b",
            policy_revision_out="b",
            kl_coefficient_in=0.1,
        ),
    ]
    publish_rows(tmp_path, "verdicts", rounds=verdicts)
    first, second, third = rows_of(tmp_path, "from trainings")
    assert (first["policy_revision_in"], first["trained_revision"]) == ("a", "b")
    assert (first["read_version"], first["version"], first["seed"]) == (4, 0, 7)
    assert (first["kl_coefficient"], second["kl_coefficient"]) == (0.05, 0.1)
    assert [row["is_kept"] for row in (first, second, third)] == [True, False, None]
    assert [row["config_sha256"] for row in (first, second, third)] == ["c1", "c1", None]
    policies = rows_of(tmp_path, "select policy_revision, is_kept from policy_lineage")
    assert {row["policy_revision"]: row["is_kept"] for row in policies} == {
        "policy-0": True,  # the builder's reference
        "a": True,
        "b": True,
        "c": False,
        "d": None,
    }


def test_a_training_that_left_the_policy_as_it_was_made_none(tmp_path: Path) -> None:
    train(tmp_path, 0, "a", "a")
    publish_rows(
        tmp_path,
        "verdict",
        rounds=[
            round_row(0, training_run_id="run-0", policy_revision_in="a", policy_revision_out="a")
        ],
    )
    (row,) = rows_of(tmp_path, "from policy_lineage where policy_revision = 'a'")
    assert (row["training_run_id"], row["is_kept"]) == (None, True)


def test_a_round_with_its_labelers_code_and_commits(tmp_path: Path) -> None:
    (held,) = [rollout(0, "p1")]
    publish_rows(tmp_path, "round=0/eval-rollouts", 0, rollouts=[held])
    labels = [label(held, 0.5), label(held, 0.5, "hate", revision="r9")]
    publish_rows(tmp_path, "round=0/eval-labels", 0, labels=labels)
    train(tmp_path, 0, "policy-0", "policy-1")
    publish_rows(tmp_path, "verdict", rounds=[round_row(0)])
    publish_rows(tmp_path, "round=1/eval-rollouts", 1, rollouts=[rollout(1, "p1")])
    first, second = rows_of(tmp_path, "from round_lineage")
    assert (first["round"], first["status"], first["config_sha256"]) == (0, "completed", "c1")
    assert first["labelers"] == ["hate@r9", "meter@r1"]
    assert first["code_versions"] == ["1.0"]
    assert dict(first["commits"]) == {
        "round=0/eval-rollouts": 0,
        "round=0/eval-labels": 1,
        "round=0/training": 2,
    }
    assert (second["round"], second["status"], second["labelers"]) == (1, None, None)
    assert dict(second["commits"]) == {"round=1/eval-rollouts": 4}


def test_an_older_version_knows_no_later_commit(shared_warehouse: Path) -> None:
    now = rows_of(shared_warehouse, "from round_lineage")
    then = connect(shared_warehouse, as_of=2).sql("from round_lineage").to_arrow_table()
    assert [row["round"] for row in now] == [0, 1]
    assert [len(row["commits"]) for row in then.to_pylist()] == [2]
    assert now[0]["policy_revision_out"] == "policy-1"
