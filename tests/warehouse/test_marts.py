"""Every mart on a hand-made warehouse, against numbers worked out by hand."""

from __future__ import annotations

from datetime import timedelta
from math import sqrt
from pathlib import Path

import duckdb
import pytest
from scipy.stats import binomtest

from tests.warehouse.builder import (
    NOON,
    Row,
    label,
    prompt,
    publish_rows,
    reward,
    rollout,
    round_row,
)
from warehouse.catalog import connect, load_query


def rows_of(con: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    return con.sql(query).to_arrow_table().to_pylist()


def holdout(
    root: Path, by_prompt: dict[str, tuple[float | None, ...]], round: int = 0
) -> list[Row]:
    """Publishes one sample per score and labels it; gives the rollouts."""
    rollouts = [rollout(round, p, k) for p, scores in by_prompt.items() for k in range(len(scores))]
    scores = [score for scores in by_prompt.values() for score in scores]
    labels = [label(row, score) for row, score in zip(rollouts, scores, strict=True)]
    publish_rows(root, f"round={round}/eval-rollouts", round, rollouts=rollouts)
    publish_rows(root, f"round={round}/eval-labels/meter@r1", round, labels=labels)
    return rollouts


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


# The other marts


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


# why


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
