"""toxicity_by_round on a hand-made warehouse: its numbers, and which revision of labels counts."""

from __future__ import annotations

from datetime import timedelta
from math import sqrt
from pathlib import Path

import pytest
from scipy.stats import binomtest

from tests.warehouse.builder import (
    NOON,
    Row,
    holdout,
    label,
    publish_rows,
    reward,
    rollout,
    rows_of,
)
from warehouse.catalog.catalog import connect


def toxicity(root: Path) -> Row:
    (row,) = rows_of(connect(root), "from toxicity_by_round")
    return row


# toxicity_by_round


def test_the_first_columns_are_those_of_the_contract(shared_warehouse: Path) -> None:
    assert connect(shared_warehouse).sql("from toxicity_by_round").columns[:12] == [
        "round",
        "labeler",
        "role",
        "prompts",
        "completions",
        "toxicity_rate",
        "toxicity_low",
        "toxicity_high",
        "mean_score",
        "expected_max",
        "samples_per_prompt",
        "unit",
    ]


def test_rates_means_and_expected_maxima_by_round(shared_warehouse: Path) -> None:
    """Round 0: .9 .2 | .6 .4 - round 1: .1 .2 | .3 .7; the train labels of `hate` stay out."""
    first, second = rows_of(connect(shared_warehouse), "from toxicity_by_round")
    names = ("round", "labeler", "role", "prompts", "completions", "samples_per_prompt")
    assert [first[name] for name in names] == [0, "meter", "metric", 2, 4, 2]
    assert [second[name] for name in names] == [1, "meter", "metric", 2, 4, 2]
    assert first["toxicity_rate"] == pytest.approx(0.5)
    assert first["mean_score"] == pytest.approx(2.1 / 4)
    assert first["expected_max"] == pytest.approx((0.9 + 0.6) / 2)
    assert second["toxicity_rate"] == pytest.approx(0.25)
    assert second["mean_score"] == pytest.approx(1.3 / 4)
    assert second["expected_max"] == pytest.approx((0.2 + 0.7) / 2)


@pytest.mark.parametrize("toxic", [0, 1, 3, 7, 10])
def test_one_sample_per_prompt_gives_wilson_s_interval(tmp_path: Path, toxic: int) -> None:
    holdout(tmp_path, {f"p{i}": (0.5 if i < toxic else 0.49,) for i in range(10)})
    row = toxicity(tmp_path)
    expected = binomtest(toxic, 10).proportion_ci(0.95, method="wilson")
    assert row["toxicity_rate"] == toxic / 10
    assert row["design_effect"] == pytest.approx(1)
    assert row["toxicity_low"] == pytest.approx(expected.low, abs=1e-12)
    assert row["toxicity_high"] == pytest.approx(expected.high, abs=1e-12)


def test_samples_that_always_agree_widen_the_interval(tmp_path: Path) -> None:
    """Toxic counts 2 2 0 0 of 2 each: n = 8, p = 1/2, squares = 4 * 1, so the design effect is
    (4/3 * 4 / 64) / (1/4 / 7) = 7/3 and Wilson sees 24/7 completions."""
    holdout(tmp_path, {"p1": (1, 1), "p2": (1, 1), "p3": (0, 0), "p4": (0, 0)})
    row = toxicity(tmp_path)
    assert row["design_effect"] == pytest.approx(7 / 3)
    n, z = 24 / 7, 1.959964
    half = z / (1 + z * z / n) * sqrt(0.25 / n + z * z / (4 * n * n))
    assert row["toxicity_low"] == pytest.approx(0.5 - half, abs=1e-6)
    assert row["toxicity_high"] == pytest.approx(0.5 + half, abs=1e-6)


def test_samples_that_disagree_never_narrow_it(tmp_path: Path) -> None:
    holdout(tmp_path, {f"p{i}": (1, 0) for i in range(5)})
    expected = binomtest(5, 10).proportion_ci(0.95, method="wilson")
    assert toxicity(tmp_path)["design_effect"] == 1
    assert toxicity(tmp_path)["toxicity_low"] == pytest.approx(expected.low)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_rate_of_nothing_or_all_keeps_an_interval(tmp_path: Path, score: float) -> None:
    holdout(tmp_path, {"p1": (score, score), "p2": (score, score)})
    row = toxicity(tmp_path)
    expected = binomtest(int(4 * score), 4).proportion_ci(0.95, method="wilson")
    assert (row["toxicity_rate"], row["design_effect"]) == (score, 1)
    assert row["toxicity_low"] == pytest.approx(expected.low, abs=1e-12)
    assert row["toxicity_high"] == pytest.approx(expected.high, abs=1e-12)


def test_a_single_prompt_has_no_design_effect_to_estimate(tmp_path: Path) -> None:
    holdout(tmp_path, {"p1": (1, 0, 0, 0)})
    assert toxicity(tmp_path)["design_effect"] == 1


def test_failed_train_pairwise_and_other_criteria_stay_out(tmp_path: Path) -> None:
    rollouts = holdout(tmp_path, {"p1": (0.9, None), "p2": (None,)})
    other = label(rollouts[1], 1.0, "helpful-judge", role="reward", criterion="helpfulness")
    pair = label(rollouts[0], 1.0, "pair-judge") | {"partner_rollout_id": "0-p1-1"}
    publish_rows(tmp_path, "more", 0, labels=[other, pair])
    row = toxicity(tmp_path)
    assert (row["labeler"], row["prompts"], row["completions"]) == ("meter", 1, 1)
    assert row["toxicity_rate"] == 1


def test_several_judge_samples_of_one_completion_count_once(tmp_path: Path) -> None:
    (row,) = holdout(tmp_path, {"p1": (0.2,)})
    more = [label(row, score, sample_index=k) for k, score in ((1, 0.3), (2, 0.7))]
    publish_rows(tmp_path, "more", 0, labels=more)
    assert toxicity(tmp_path)["completions"] == 1
    assert toxicity(tmp_path)["mean_score"] == pytest.approx(0.4)


# Which revision counts


def test_without_a_reward_the_latest_revision_counts(tmp_path: Path) -> None:
    rollouts = holdout(tmp_path, {"p1": (0.9, 0.9)})
    later = [
        label(row, 0.1, revision="r2", labeled_at=NOON + timedelta(hours=1)) for row in rollouts
    ]
    publish_rows(tmp_path, "round=0/eval-labels/meter@r2", 0, labels=later)
    assert toxicity(tmp_path)["completions"] == 2
    assert toxicity(tmp_path)["mean_score"] == pytest.approx(0.1)
    publish_rows(
        tmp_path,
        "older",
        0,
        labels=[
            label(row, 0.5, revision="r0", labeled_at=NOON - timedelta(hours=1)) for row in rollouts
        ],
    )
    assert toxicity(tmp_path)["mean_score"] == pytest.approx(0.1)


def test_the_revision_that_the_round_trained_on_counts(tmp_path: Path) -> None:
    """Also on the hold-out, where no reward names it; elsewhere the latest stays."""
    late = {"revision": "r2", "labeled_at": NOON + timedelta(hours=1)}
    (held,) = holdout(tmp_path, {"p1": (0.9,)})
    train = rollout(0, "t1", purpose="train")
    used = label(train, 0.8)
    publish_rows(tmp_path, "train", 0, rollouts=[train])
    publish_rows(tmp_path, "r1", 0, labels=[used])
    publish_rows(tmp_path, "rewards", 0, rewards=[reward(train, 1.0, [used])])
    publish_rows(tmp_path, "r2", 0, labels=[label(train, 0.1, **late), label(held, 0.1, **late)])
    con = connect(tmp_path)
    scores = con.sql("select rollout_id, score from completion_scores order by all").fetchall()
    assert scores == [("0-p1-0", 0.9), ("0-t1-0", 0.8)]


def test_a_trained_revision_does_not_hide_holdout_labels_of_another(tmp_path: Path) -> None:
    (held,) = holdout(tmp_path, {"p1": (0.9,)})
    train = rollout(0, "t1", purpose="train")
    used = label(train, 0.8, revision="r2")
    publish_rows(tmp_path, "train", 0, rollouts=[train])
    publish_rows(tmp_path, "r2", 0, labels=[used])
    publish_rows(tmp_path, "rewards", 0, rewards=[reward(train, 1.0, [used])])
    assert toxicity(tmp_path)["mean_score"] == pytest.approx(0.9)
    assert held["rollout_id"] == "0-p1-0"


def test_toxicity_by_round_counts_what_completion_scores_counts(tmp_path: Path) -> None:
    """It finds the revision in a way of its own, for speed: here every case that differs."""
    late = {"revision": "r2", "labeled_at": NOON + timedelta(hours=1)}
    rows = [rollout(0, name, k) for name in ("p1", "p2") for k in (0, 1)]
    train = rollout(0, "t1", purpose="train")
    used = label(train, 0.8, "trained")
    labels = [
        *(label(row, 0.9, "failed-later") for row in rows),
        *(label(row, None, "failed-later", **late) for row in rows),
        *(label(row, 0.9, "partly-later") for row in rows),
        label(rows[0], 0.1, "partly-later", **late),
        *(label(row, 0.7, "trained") for row in rows),
        *(label(row, 0.2, "trained", **late) for row in rows),
        *(label(row, 0.6, "twice", sample_index=k) for row in rows for k in (0, 1)),
        *(label(row, 0.1, "twice", **late, sample_index=k) for row in rows for k in (0, 1)),
        label(rows[0], 0.9, "pairs", partner_rollout_id=rows[1]["rollout_id"]),
        used,
    ]
    publish_rows(tmp_path, "rollouts", 0, rollouts=[*rows, train])
    publish_rows(tmp_path, "labels", 0, labels=labels)
    publish_rows(tmp_path, "rewards", 0, rewards=[reward(train, 1.0, [used])])
    con = connect(tmp_path)
    counted = con.sql(
        "select labeler, completions, round(toxicity_rate * completions), mean_score "
        "from toxicity_by_round order by labeler"
    ).fetchall()
    assert (
        counted
        == con.sql(
            "select labeler, count(*), count_if(score >= 0.5)::double, avg(score) "
            "from completion_scores where purpose = 'holdout' group by labeler order by labeler"
        ).fetchall()
    )
    assert [row[:3] for row in counted] == [
        ("partly-later", 1, 0),
        ("trained", 4, 4),
        ("twice", 4, 0),
    ]
