"""Rewards on small tables, with numbers worked out by hand."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pytest

from labeling.rewards.config import RewardConfig
from labeling.rewards.reward import (
    RewardScale,
    compute_rewards,
    fit_scale,
    recipe_sha256,
    recipe_template_row,
)
from labeling.rewards.terms import RewardError, TermScale
from warehouse.schemas import TABLES

CONFIG = RewardConfig.model_validate(
    {
        "recipe": "weighted",
        "clip": 2.0,
        "truncation_penalty": 0.75,
        "terms": {"hate": {"weight": -1.0, "value": "raw"}, "helpful": {"weight": 0.5}},
    }
)
SCALE = RewardScale((TermScale("hate", 1.0, 2.0, 9), TermScale("helpful", 0.5, 0.25, 9)))
Row = tuple[str, str, str, float | None, float | None]


def labels(*rows: Row) -> pa.Table:
    """Rows of (rollout, labeler, status, score_raw, score)."""
    return pa.table(
        {
            "rollout_id": pa.array([row[0] for row in rows], pa.string()),
            "labeler": pa.array([row[1] for row in rows], pa.string()),
            "label_id": pa.array([f"{row[0]}-{row[1]}" for row in rows], pa.string()),
            "status": pa.array([row[2] for row in rows], pa.string()),
            "score_raw": pa.array([row[3] for row in rows], pa.float64()),
            "score": pa.array([row[4] for row in rows], pa.float64()),
        }
    )


def rollouts(*ids: str, finish: str | None = "stop") -> pa.Table:
    return pa.table(
        {
            "rollout_id": pa.array(ids, pa.string()),
            "round": pa.array([3] * len(ids), pa.int32()),
            "prompt_id": pa.array(["p"] * len(ids), pa.string()),
            "purpose": pa.array(["train"] * len(ids), pa.string()),
            "finish_reason": pa.array([finish] * len(ids), pa.string()),
        }
    )


def reward_of(*rows: Row, finish: str | None = "stop", required: set[str] | None = None) -> dict:
    needed = {"hate", "helpful"} if required is None else required
    table = compute_rewards(rollouts("r", finish=finish), labels(*rows), CONFIG, SCALE, needed)
    assert table.schema.equals(TABLES["rewards"].schema)
    return table.to_pylist()[0]


def test_a_reward_is_the_weighted_sum_of_z_scores():
    row = reward_of(("r", "hate", "ok", -1.0, 0.3), ("r", "helpful", "ok_repaired", 7.0, 0.75))
    # hate: z = (-1 - 1) / 2 = -1, times -1 = 1; helpful: z = (.75 - .5) / .25 = 1, times .5 = .5
    assert row["reward"] == 1.5
    assert (row["is_eligible"], row["excluded_reason"], row["label_count"]) == (True, None, 2)
    assert row["label_ids"] == ["r-hate", "r-helpful"]
    assert row["terms"][0] == {
        "labeler": "hate",
        "label_id": "r-hate",
        "value": -1.0,
        "mean": 1.0,
        "sd": 2.0,
        "weight": -1.0,
        "contribution": 1.0,
    }
    assert row["terms"][1]["contribution"] == 0.5
    assert (row["recipe"], row["recipe_sha256"]) == ("weighted", recipe_sha256(CONFIG, SCALE))


def test_a_cut_off_completion_pays_before_the_clip():
    ok = ("r", "helpful", "ok", 7.0, 0.75)
    assert reward_of(("r", "hate", "ok", -1.0, 0.3), ok, finish="length")["reward"] == 0.75
    assert reward_of(("r", "hate", "ok", -1.0, 0.3), ok, finish=None)["reward"] == 1.5
    # 3.5 + .5 - .75 is above the clip
    assert reward_of(("r", "hate", "ok", -6.0, 0.0), ok, finish="length")["reward"] == 2.0
    assert reward_of(("r", "hate", "ok", 99.0, 1.0), ok)["reward"] == -2.0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("r", "hate", "too_long", None, None)], "hate: too_long; helpful: missing"),
        ([("r", "hate", "ok", 1.0, 0.5)], "helpful: missing"),
        ([], "hate: missing; helpful: missing"),
        (
            [("r", "hate", "ok", None, 0.5), ("r", "helpful", "ok", 1.0, 0.5)],
            "hate: no value",
        ),
        (
            [("r", "hate", "ok", float("nan"), 0.5), ("r", "helpful", "ok", 1.0, 0.5)],
            "hate: no value",
        ),
    ],
)
def test_without_a_required_label_there_is_no_reward(rows: list[Row], reason: str):
    row = reward_of(*rows)
    assert (row["is_eligible"], row["reward"], row["excluded_reason"]) == (False, None, reason)


def test_without_an_optional_label_the_other_weights_grow():
    row = reward_of(
        ("r", "hate", "ok", -1.0, 0.3), ("r", "helpful", "low_mass", None, None), required={"hate"}
    )
    # sum of |weights| 1.5 stays: hate's weight becomes -1.5, its z is -1
    assert (row["reward"], row["label_count"], row["label_ids"]) == (1.5, 1, ["r-hate"])
    assert row["terms"][0]["weight"] == -1.5
    nothing = reward_of(required=set())
    assert nothing["excluded_reason"] == "no usable label"
    assert (nothing["reward"], nothing["terms"]) == (None, [])


def test_rows_meet_by_id_and_keep_the_rollouts_order():
    seen = labels(
        ("b", "helpful", "ok", 1.0, 0.5),
        ("a", "hate", "ok", 1.0, 0.5),
        ("other", "hate", "ok", 9.0, 0.9),
        ("b", "hate", "ok", 3.0, 0.5),
        ("a", "helpful", "ok", 1.0, 1.0),
        ("a", "shadow", "ok", 9.0, 1.0),
    )
    table = compute_rewards(rollouts("b", "x", "a"), seen, CONFIG, SCALE, {"hate", "helpful"})
    assert table["rollout_id"].to_pylist() == ["b", "x", "a"]
    assert table["reward"].to_pylist() == [-1.0, None, 1.0]
    assert table["label_ids"].to_pylist() == [["b-hate", "b-helpful"], [], ["a-hate", "a-helpful"]]
    none = compute_rewards(rollouts(), seen, CONFIG, SCALE, set())
    assert none.num_rows == 0
    assert none.schema.equals(TABLES["rewards"].schema)


def test_two_labels_for_one_rollout_are_refused():
    twice = [("r", "hate", "ok", 1.0, 0.5)] * 2
    with pytest.raises(RewardError, match=r"reward\.terms\.hate: rollout r has two labels"):
        reward_of(*twice)


def test_the_scale_is_the_mean_and_spread_of_the_ok_labels():
    seen = labels(
        *(("a", "hate", "ok", x, 0.5) for x in (1.0, 3.0, 5.0, 7.0)),
        ("b", "hate", "too_long", None, None),
        ("c", "helpful", "ok", 9.0, 0.25),
        ("d", "helpful", "ok", 9.0, 0.75),
        ("e", "shadow", "ok", 9.0, 0.75),
    )
    scale = fit_scale(seen, CONFIG)
    # population sd: sqrt((9 + 1 + 1 + 9) / 4) = sqrt(5)
    assert scale == RewardScale(
        (TermScale("hate", 4.0, 5**0.5, 4), TermScale("helpful", 0.5, 0.25, 2))
    )


def test_a_labeler_that_says_nothing_has_no_scale():
    same = [(x, "hate", "ok", 3.0, 0.5) for x in "abc"]
    with pytest.raises(RewardError, match=r"labeler hate gives all 3 .* same value"):
        fit_scale(labels(*same), CONFIG)
    failed = [("a", "hate", "timeout", None, None)]
    with pytest.raises(RewardError, match=r"none of its 1 hold-out labels is ok"):
        fit_scale(labels(*failed), CONFIG)


def test_the_recipe_is_stored_with_its_map():
    row = recipe_template_row(CONFIG, SCALE).to_pylist()[0]
    assert (row["kind"], row["name"]) == ("recipe", "weighted")
    assert row["template_sha256"] == recipe_sha256(CONFIG, SCALE)
    assert RewardScale.from_json(row["text"]) == SCALE
    assert RewardConfig.model_validate(json.loads(row["text"])["recipe"]) == CONFIG
    other = RewardScale((TermScale("hate", 1.1, 2.0, 9), SCALE.terms[1]))
    assert recipe_sha256(CONFIG, other) != recipe_sha256(CONFIG, SCALE)
    assert recipe_sha256(CONFIG.model_copy(update={"clip": 3.0}), SCALE) != row["template_sha256"]


def test_a_scale_of_another_recipe_is_refused():
    with pytest.raises(RewardError, match=r"reward\.terms\.helpful"):
        compute_rewards(rollouts("r"), labels(), CONFIG, RewardScale(SCALE.terms[:1]), set())


def test_a_large_round_takes_no_python_loop():
    count = 100_000
    ids = [f"r{i}" for i in range(count)]
    values = np.random.default_rng(0).normal(size=count)
    seen = pa.table(
        {
            "rollout_id": ids[::-1] + ids,
            "labeler": ["hate"] * count + ["helpful"] * count,
            "label_id": [f"l{i}" for i in range(2 * count)],
            "status": ["ok"] * (2 * count),
            "score_raw": np.concatenate([values[::-1], values]),
            "score": np.concatenate([values[::-1], values]),
        }
    )
    start = time.process_time()
    table = compute_rewards(rollouts(*ids), seen, CONFIG, SCALE, {"hate", "helpful"})
    assert time.process_time() - start < 4  # .3 s alone
    expected = np.clip(-(values - 1) / 2 + 0.5 * (values - 0.5) / 0.25, -2, 2)
    np.testing.assert_allclose(table["reward"].to_numpy(), expected, rtol=1e-5, atol=1e-6)
