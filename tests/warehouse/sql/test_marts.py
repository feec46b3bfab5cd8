"""The marts beside toxicity_by_round, against numbers worked out by hand."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import pytest

from tests.warehouse.builder import (
    Row,
    holdout,
    label,
    prompt,
    publish_rows,
    reward,
    rollout,
    round_row,
    rows_of,
)
from warehouse.catalog.catalog import connect


def test_scored_rollouts_hold_reward_scores_and_statuses(tmp_path: Path) -> None:
    good, bad, bare = (rollout(0, "t1", k, purpose="train") for k in range(3))
    labels = [label(good, 0.2), label(good, 0.6, "judge"), label(bad, None, status="refusal")]
    publish_rows(tmp_path, "prompts", prompts=[prompt("t1", purpose="train")])
    publish_rows(tmp_path, "rollouts", 0, rollouts=[good, bad, bare])
    publish_rows(tmp_path, "labels", 0, labels=labels)
    old = reward(good, -2.0, labels[:1], recipe_sha256="recipe-0")
    rewards = [reward(good, 1.5, labels[:2]), reward(bad, None)]
    publish_rows(tmp_path, "rewards", 0, rewards=[old, *rewards])
    publish_rows(tmp_path, "training", 0, rounds=[round_row(0)])
    con = connect(tmp_path)
    first, second, third = rows_of(con, "from scored_rollouts order by rollout_id")
    assert (first["prompt"], first["completion"]) == ("Question t1?", "Answer 0-t1-0.")
    assert (first["reward"], first["recipe_sha256"]) == (1.5, "recipe-1")
    assert (first["completion_tokens"], first["finish_reason"]) == (3, "stop")
    assert dict(first["scores"]) == {"judge": 0.6, "meter": 0.2}
    assert dict(first["statuses"]) == {"judge": "ok", "meter": "ok"}
    assert (second["reward"], second["is_eligible"]) == (None, False)
    assert second["excluded_reason"] == "no score"
    assert (second["scores"], dict(second["statuses"])) == (None, {"meter": "refusal"})
    assert (third["reward"], third["is_eligible"], third["statuses"]) == (None, None, None)


def test_the_prompt_is_the_last_human_turn(tmp_path: Path) -> None:
    turns = '[{"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}, \
        {"role": "human", "content": "c"}, {"role": "assistant", "content": "d"}]'
    publish_rows(tmp_path, "key", prompts=[prompt("p1", messages=turns)])
    assert connect(tmp_path).sql("from prompt_texts").fetchall() == [("p1", "c")]


def test_agreement_of_two_labelers(tmp_path: Path) -> None:
    """Ten completions: both yes 3, only a 1, only b 2, neither 4. po = .7, chance of kappa
    .4 * .5 + .6 * .5 = .5, so kappa = .4; chance of AC1 2 * .45 * .55 = .495, so AC1 = .205 / .505;
    phi = (3 * 4 - 1 * 2) / sqrt(4 * 6 * 5 * 5)."""
    votes = [(1, 1)] * 3 + [(1, 0)] + [(0, 1)] * 2 + [(0, 0)] * 4
    rollouts = [rollout(0, f"p{i}") for i in range(10)]
    pairs = list(zip(rollouts, votes, strict=True))
    labels = [label(row, a, "a") for row, (a, _) in pairs]
    labels += [label(row, b, "b") for row, (_, b) in pairs]
    labels += [label(rollouts[0], 1, "c"), label(rollouts[1], None, "c")]
    publish_rows(tmp_path, "rollouts", 0, rollouts=rollouts)
    publish_rows(tmp_path, "labels", 0, labels=labels)
    ab, ac, bc = rows_of(connect(tmp_path), "from labeler_agreement")
    assert (ab["round"], ab["purpose"], ab["criterion"]) == (0, "holdout", "toxicity")
    assert (ab["labeler_a"], ab["labeler_b"], ab["n"]) == ("a", "b", 10)
    assert (ab["prevalence_a"], ab["prevalence_b"]) == (0.4, 0.5)
    assert ab["po"] == pytest.approx(0.7)
    assert ab["kappa"] == pytest.approx(0.4)
    assert ab["ac1"] == pytest.approx(0.205 / 0.505)
    assert ab["pearson"] == pytest.approx(10 / sqrt(600))
    # One completion, both yes: kappa's chance explains everything, AC1's nothing.
    for pair in (ac, bc):
        assert (pair["n"], pair["po"], pair["ac1"]) == (1, 1, 1)
        assert (pair["kappa"], pair["pearson"]) == (None, None)


def test_the_worst_twenty_of_a_round(tmp_path: Path) -> None:
    scores = {f"p{i:02}": (i / 100,) for i in range(22)}
    rollouts = holdout(tmp_path, scores)
    publish_rows(
        tmp_path, "reward-labels", 0, labels=[label(rollouts[0], 1.0, "hate", role="reward")]
    )
    publish_rows(tmp_path, "prompts", prompts=[prompt(name) for name in scores])
    worst = rows_of(connect(tmp_path), "from worst_completions")
    assert [row["rank"] for row in worst] == list(range(1, 21))
    assert [row["score"] for row in worst] == [i / 100 for i in range(21, 1, -1)]
    assert {row["labeler"] for row in worst} == {"meter"}
    assert (worst[0]["rollout_id"], worst[0]["prompt"]) == ("0-p21-0", "Question p21?")
    assert worst[0]["completion"] == "Answer 0-p21-0."


def test_before_and_after_by_change(shared_warehouse: Path) -> None:
    rows = rows_of(connect(shared_warehouse), "from before_after")
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [
        ("p1", 0),
        ("p2", 0),
        ("p1", 1),
        ("p2", 1),
    ]
    assert [row["change"] for row in rows] == pytest.approx([-0.8, -0.3, 0.0, 0.3])
    first = rows[0]
    assert (first["round_before"], first["round_after"]) == (0, 1)
    assert (first["score_before"], first["score_after"]) == (0.9, 0.1)
    assert first["completion_before"] == "Answer 0-p1-0."
    assert first["completion_after"] == "Answer 1-p1-0."


def test_one_evaluated_round_has_no_before_and_after(tmp_path: Path) -> None:
    holdout(tmp_path, {"p1": (0.9,)})
    assert rows_of(connect(tmp_path), "from before_after") == []


def preference_candidates(
    root: Path, status: str, rewards: list[float | None], **columns: object
) -> list[Row]:
    """The pairs out of one train rollout per reward, for one prompt of a round of this status."""
    columns = {"purpose": "train"} | columns
    rollouts = [rollout(0, "t1", k, **columns) for k in range(len(rewards))]
    publish_rows(root, "prompts", prompts=[prompt("t1", purpose="train")])
    publish_rows(root, "rollouts", 0, rollouts=rollouts)
    rows = [reward(row, value) for row, value in zip(rollouts, rewards, strict=True)]
    publish_rows(root, "rewards", 0, rewards=rows)
    publish_rows(root, "training", 0, rounds=[round_row(0, status=status)])
    return rows_of(connect(root), "from preference_candidates")


def test_a_pair_is_the_best_against_the_worst(tmp_path: Path) -> None:
    (pair,) = preference_candidates(tmp_path, "completed", [0.5, 2.0, None, -1.0, 2.0])
    assert (pair["chosen_id"], pair["rejected_id"]) == ("0-t1-1", "0-t1-3")
    assert (pair["chosen_reward"], pair["rejected_reward"], pair["margin"]) == (2.0, -1.0, 3.0)
    assert (pair["chosen"], pair["rejected"]) == ("Answer 0-t1-1.", "Answer 0-t1-3.")
    assert pair["chosen_finish_reason"] == pair["rejected_finish_reason"] == "stop"
    assert pair["prompt"] == "Question t1?"


@pytest.mark.parametrize(
    ("status", "rewards", "columns"),
    [
        ("refused", [1.0, 2.0], {}),
        ("rejected", [1.0, 2.0], {}),
        ("completed", [1.0, 1.0], {}),
        ("completed", [1.0, None], {}),
        ("completed", [1.0, 2.0], {"completion": "the same"}),
        ("completed", [1.0, 2.0], {"purpose": "holdout"}),
    ],
)
def test_no_pair_without_a_completed_round_and_a_difference(
    tmp_path: Path, status: str, rewards: list[float | None], columns: dict[str, object]
) -> None:
    assert preference_candidates(tmp_path, status, rewards, **columns) == []


def test_coverage_counts_statuses_and_the_unlabeled(tmp_path: Path) -> None:
    rollouts = [rollout(0, f"p{i}") for i in range(4)]
    retried = label(rollouts[2], None, status="timeout", is_final=False)
    labels = [label(rollouts[0], 0.5), label(rollouts[1], 0.5), retried]
    labels.append(label(rollouts[2], None, attempt=2))
    publish_rows(tmp_path, "rollouts", 0, rollouts=rollouts)
    publish_rows(tmp_path, "labels", 0, labels=labels)
    rows = rows_of(connect(tmp_path), "from label_coverage")
    assert [(row["status"], row["rows"], row["share"]) for row in rows] == [
        ("ok", 2, 0.5),
        ("empty", 1, 0.25),
        ("unlabeled", 1, 0.25),
    ]


def test_costs_count_every_attempt(tmp_path: Path) -> None:
    row = rollout(0, "p1")
    usage = {"input_tokens": 100, "output_tokens": 2, "cost_usd": 0.001}
    labels = [
        label(row, None, status="throttled", is_final=False, **usage),
        label(row, 0.5, attempt=2, is_usage_estimated=True, **usage),
        label(row, 0.6, sample_index=1, is_cached=True, **(usage | {"cost_usd": 0.0})),
        label(row, 0.5, "hate"),
    ]
    publish_rows(tmp_path, "rollouts", 0, rollouts=[row])
    publish_rows(tmp_path, "labels", 0, labels=labels)
    hate, meter = rows_of(connect(tmp_path), "from round_costs")
    assert (hate["attempts"], hate["input_tokens"], hate["cost_usd"]) == (1, None, None)
    assert (meter["attempts"], meter["ok_labels"], meter["from_cache"]) == (3, 2, 1)
    assert (meter["input_tokens"], meter["output_tokens"]) == (300, 6)
    assert (meter["cost_usd"], meter["usd_per_1k_ok"]) == pytest.approx((0.002, 1.0))
    assert (hate["has_estimates"], meter["has_estimates"]) == (False, True)


def evaluation(metric: str, value: float, round: int = 0) -> Row:
    return {
        "round": round,
        "policy_revision": f"policy-{round}",
        "metric": metric,
        "value": value,
        "unit": "nats per sequence",
        "method": "k3",
        "prompts": 2,
        "completions": 4,
        "samples_per_prompt": 2,
    }


def test_policy_kl_picks_the_kl_metrics(tmp_path: Path) -> None:
    rows = [evaluation("kl_to_reference", 1.25), evaluation("distinct_2", 0.8)]
    publish_rows(tmp_path, "evaluation", 0, evaluations=rows)
    (row,) = rows_of(connect(tmp_path), "from policy_kl")
    assert (row["metric"], row["value"], row["unit"]) == (
        "kl_to_reference",
        1.25,
        "nats per sequence",
    )
