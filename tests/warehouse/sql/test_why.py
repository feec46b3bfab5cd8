"""Why a rollout got its reward: terms, labels, templates, reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.warehouse.builder import (
    Row,
    label,
    prompt,
    publish_rows,
    reward,
    rollout,
)
from warehouse.catalog.catalog import connect, load_query


def why(root: Path, rollout_id: str) -> list[Row]:
    con = connect(root)
    answer = con.sql(load_query("why"), params={"rollout": rollout_id})
    return answer.to_arrow_table().to_pylist()


def test_why_names_terms_labels_and_templates(tmp_path: Path) -> None:
    row = rollout(0, "t1", purpose="train")
    used = label(row, 0.8, "hate", role="reward", raw_output="[0.2, 0.8]", template_sha256="rubric")
    failed = label(row, None, "judge", role="shadow", status="refusal", raw_output="I cannot.")
    gone = label(row, 0.1, "lost")
    texts = [("rubric", "rubric", "Rate it."), ("recipe-1", "recipe", "hate: -1")]
    publish_rows(
        tmp_path,
        "templates",
        templates=[
            {"template_sha256": sha, "kind": kind, "name": kind, "version": "1", "text": text}
            for sha, kind, text in texts
        ],
        prompts=[prompt("t1", purpose="train")],
    )
    publish_rows(tmp_path, "rollouts", 0, rollouts=[row])
    publish_rows(tmp_path, "labels", 0, labels=[used, failed])
    scored = reward(row, -0.8, [used, gone], label_ids=[used["label_id"]])
    publish_rows(tmp_path, "rewards", 0, rewards=[scored])
    terms = {entry["labeler"]: entry for entry in why(tmp_path, "0-t1-0")}
    assert set(terms) == {"hate", "judge", "lost"}
    hate, judge, lost = terms["hate"], terms["judge"], terms["lost"]
    assert all(entry["reward"] == pytest.approx(-0.8) for entry in terms.values())
    assert (hate["prompt"], hate["recipe_text"]) == ("Question t1?", "hate: -1")
    assert (hate["weight"], hate["value"], hate["mean"], hate["sd"]) == (-1.0, 0.8, 0.0, 1.0)
    assert (hate["template"], hate["template_text"]) == ("rubric", "Rate it.")
    assert (hate["model"], hate["model_revision"], hate["raw_output"]) == (
        "test-model",
        "m1",
        "[0.2, 0.8]",
    )
    assert (judge["role"], judge["weight"], judge["status"]) == ("shadow", None, "refusal")
    assert judge["raw_output"] == "I cannot."
    assert (lost["weight"], lost["label_id"], lost["status"]) == (-1.0, None, None)


def test_why_answers_without_a_reward_and_without_a_label(shared_warehouse: Path) -> None:
    (row,) = why(shared_warehouse, "0-p1-0")
    assert (row["reward"], row["labeler"], row["role"]) == (None, "meter", "metric")
    assert (row["score"], row["completion"]) == (0.9, "Answer 0-p1-0.")
    assert why(shared_warehouse, "9-none-0") == []


def test_why_gives_the_reason_of_an_excluded_rollout(tmp_path: Path) -> None:
    row = rollout(0, "t1", purpose="train")
    publish_rows(tmp_path, "rollouts", 0, rollouts=[row])
    assert [entry["completion"] for entry in why(tmp_path, "0-t1-0")] == ["Answer 0-t1-0."]
    publish_rows(tmp_path, "rewards", 0, rewards=[reward(row, None)])
    (entry,) = why(tmp_path, "0-t1-0")
    assert (entry["is_eligible"], entry["excluded_reason"]) == (False, "no score")


def test_why_shows_one_line_per_recipe_and_label(tmp_path: Path) -> None:
    row = rollout(0, "t1", purpose="train")
    used, other = label(row, 0.8, "hate"), label(row, 0.3, "meter")
    publish_rows(tmp_path, "rollouts", 0, rollouts=[row])
    publish_rows(tmp_path, "labels", 0, labels=[used, other])
    both = [
        reward(row, value, [used], recipe=recipe, recipe_sha256=recipe)
        for recipe, value in (("a", 1.0), ("b", 2.0))
    ]
    publish_rows(tmp_path, "rewards", 0, rewards=both)
    lines = [(e["recipe"], e["reward"], e["labeler"], e["weight"]) for e in why(tmp_path, "0-t1-0")]
    assert lines == [
        ("a", 1.0, "hate", -1.0),
        ("a", 1.0, "meter", None),
        ("b", 2.0, "hate", -1.0),
        ("b", 2.0, "meter", None),
    ]
