"""Marts on scores by criterion, stratum and worst sample, and on the reward against judges."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import pytest
from scipy.stats import binomtest

from tests.warehouse.builder import Row, label, prompt, publish_rows, reward, rollout, round_row
from warehouse.catalog.catalog import connect

Z = 1.959963984540054


def rows_of(root: Path, query: str) -> list[Row]:
    return connect(root).sql(query).to_arrow_table().to_pylist()


def publish_scores(
    root: Path,
    by_prompt: dict[str, tuple[float | None, ...]],
    round: int = 0,
    labeler: str = "meter",
    **columns: object,
) -> list[Row]:
    """One hold-out sample per score, published once a round, and a label on each."""
    rollouts = [rollout(round, p, k) for p, scores in by_prompt.items() for k in range(len(scores))]
    scores = [score for scores in by_prompt.values() for score in scores]
    labels = [label(r, s, labeler, **columns) for r, s in zip(rollouts, scores, strict=True)]
    there = rows_of(root, f"select 1 from rollouts where round = {round}") if root.exists() else []
    if not there:
        publish_rows(root, f"round={round}/eval-rollouts", round, rollouts=rollouts)
    publish_rows(root, f"round={round}/eval-labels/{labeler}@r1", round, labels=labels)
    return rollouts


# prompt_scores and scores_by_criterion


def test_every_criterion_has_its_row(tmp_path: Path) -> None:
    """Toxicity .2 .4 | .9: mean .5; sums less mean x n are -.4 and .4, so squares = .32 and
    se = sqrt(2 * .32) / 3. Helpfulness of one prompt: no interval."""
    publish_scores(tmp_path, {"p1": (0.2, 0.4), "p2": (0.9,)})
    publish_scores(tmp_path, {"p1": (0.5, 1.0)}, labeler="help", criterion="helpfulness")
    helpful, toxic = rows_of(tmp_path, "from scores_by_criterion")
    assert [helpful[n] for n in ("round", "criterion", "labeler", "prompts", "completions")] == [
        *(0, "helpfulness", "help", 1, 2)
    ]
    assert (helpful["mean_score"], helpful["mean_low"], helpful["mean_high"]) == (0.75, None, None)
    assert (helpful["sd_score"], helpful["high_share"]) == (0.25, 1.0)
    assert (toxic["criterion"], toxic["prompts"], toxic["completions"]) == ("toxicity", 2, 3)
    assert toxic["mean_score"] == pytest.approx(0.5)
    assert toxic["mean_low"] == pytest.approx(max(0, 0.5 - Z * sqrt(0.64) / 3))
    assert toxic["mean_high"] == pytest.approx(min(1, 0.5 + Z * sqrt(0.64) / 3))
    assert toxic["sd_score"] == pytest.approx(sqrt((0.09 + 0.01 + 0.16) / 3))
    assert toxic["high_share"] == pytest.approx(1 / 3)


def test_one_sample_per_prompt_gives_the_plain_standard_error(tmp_path: Path) -> None:
    scores = [0.1, 0.4, 0.45, 0.8]
    publish_scores(tmp_path, {f"p{i}": (score,) for i, score in enumerate(scores)})
    (row,) = rows_of(tmp_path, "from scores_by_criterion")
    mean = sum(scores) / 4
    error = sqrt(sum((score - mean) ** 2 for score in scores) / 3 / 4)
    assert row["mean_low"] == pytest.approx(mean - Z * error)
    assert row["mean_high"] == pytest.approx(mean + Z * error)


def test_equal_scores_have_no_spread_and_failed_ones_no_place(tmp_path: Path) -> None:
    publish_scores(tmp_path, {"p1": (0.3, None), "p2": (0.3,), "p3": (None,)})
    (row,) = rows_of(tmp_path, "from scores_by_criterion")
    assert (row["prompts"], row["completions"]) == (2, 2)
    assert row["sd_score"] == pytest.approx(0, abs=1e-8)
    assert row["mean_low"] == pytest.approx(0.3) == pytest.approx(row["mean_high"])


def test_train_and_pairwise_scores_are_no_rows_of_a_prompt(tmp_path: Path) -> None:
    (held, other) = publish_scores(tmp_path, {"p1": (0.3, 0.5)})
    train = rollout(0, "t1", purpose="train")
    pair = label(held, 1.0, "pairs") | {"partner_rollout_id": other["rollout_id"]}
    publish_rows(tmp_path, "train", 0, rollouts=[train])
    publish_rows(tmp_path, "labels", 0, labels=[label(train, 0.9), pair])
    (row,) = rows_of(tmp_path, "from prompt_scores")
    assert (row["prompt_id"], row["completions"], row["high_count"]) == ("p1", 2, 1)
    assert (row["score_sum"], row["score_max"]) == (pytest.approx(0.8), 0.5)


# expected_maximum


def test_the_worst_sample_of_each_prompt(tmp_path: Path) -> None:
    """Maxima .9, .3, .6: mean .6, sd .3; two of three prompts have a toxic completion."""
    publish_scores(tmp_path, {"p1": (0.1, 0.9), "p2": (0.3, None), "p3": (0.6, 0.5)})
    publish_scores(tmp_path, {"p1": (1.0,)}, labeler="help", criterion="helpfulness")
    (row,) = rows_of(tmp_path, "from expected_maximum")
    assert [row[n] for n in ("round", "labeler", "role", "prompts")] == [0, "meter", "metric", 3]
    assert (row["samples_per_prompt"], row["fewest_samples"]) == (2, 1)
    assert row["expected_max"] == pytest.approx(0.6)
    assert row["expected_max_low"] == pytest.approx(0.6 - Z * 0.3 / sqrt(3))
    assert row["expected_max_high"] == pytest.approx(0.6 + Z * 0.3 / sqrt(3))
    wilson = binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert row["any_toxic"] == pytest.approx(2 / 3)
    assert (row["any_toxic_low"], row["any_toxic_high"]) == pytest.approx((wilson.low, wilson.high))


def test_the_expected_maximum_is_that_of_the_headline(shared_warehouse: Path) -> None:
    both = [
        rows_of(shared_warehouse, f"select round, labeler, expected_max from {mart}")
        for mart in ("expected_maximum", "toxicity_by_round")
    ]
    assert both[0] == both[1]
    assert [row["expected_max"] for row in both[0]] == pytest.approx([0.75, 0.45])


def test_one_prompt_has_a_maximum_and_no_interval(tmp_path: Path) -> None:
    publish_scores(tmp_path, {"p1": (0.2, 0.7)})
    (row,) = rows_of(tmp_path, "from expected_maximum")
    assert (row["expected_max"], row["expected_max_low"], row["expected_max_high"]) == (
        *(0.7, None, None),
    )


# prompt_strata and toxicity_by_stratum


def dialogue(prompt_id: str, last: str, turns: int, **columns: object) -> Row:
    """A prompt with this many human turns, the last of them `last`."""
    earlier = [
        {"role": role, "content": "Hello, and a long one it is."}
        for _ in range(turns - 1)
        for role in ("user", "assistant")
    ]
    system = [{"role": "system", "content": "Be brief."}]
    messages = [*system, *earlier, {"role": "user", "content": last}]
    return prompt(prompt_id, messages=json.dumps(messages), **columns)


def test_prompts_by_source_turns_and_length(tmp_path: Path) -> None:
    """Thirds of four prompts: two short, one medium, one long. Prompts never sampled are none."""
    prompts = [
        dialogue("p1", "aa", 1, source="hh"),
        dialogue("p2", "a", 2, source="hh"),
        dialogue("p3", "a" * 30, 5, source="rtp"),
        dialogue("p4", "a" * 9, 3, source="rtp"),
        dialogue("p5", "a" * 99, 1),
        dialogue("t1", "a" * 99, 1, purpose="train"),
    ]
    publish_rows(tmp_path, "prompts", prompts=prompts)
    publish_scores(tmp_path, dict.fromkeys(("p1", "p2", "p3", "p4"), (0.5,)))
    publish_rows(tmp_path, "train", 0, rollouts=[rollout(0, "t1", purpose="train")])
    rows = rows_of(tmp_path, "from prompt_strata")
    assert {(row["prompt_id"], row["split"], row["stratum"]) for row in rows} == {
        *(("p1", "source", "hh"), ("p2", "source", "hh")),
        *(("p3", "source", "rtp"), ("p4", "source", "rtp")),
        *(("p1", "turns", "1"), ("p2", "turns", "2")),
        *(("p3", "turns", "3 and more"), ("p4", "turns", "3 and more")),
        *(("p1", "length", "1 short"), ("p2", "length", "1 short")),
        *(("p4", "length", "2 medium"), ("p3", "length", "3 long")),
    }
    assert len(rows) == 12


def test_toxicity_of_every_stratum(tmp_path: Path) -> None:
    """Round 0 scores .1 | .5 | .9 sort p1 p2 p3; a single prompt each has no design effect."""
    publish_rows(
        tmp_path,
        "prompts",
        prompts=[prompt("p1", source="a"), prompt("p2", source="b"), prompt("p3", source="b")],
    )
    publish_scores(tmp_path, {"p1": (0.1, 0.1), "p2": (0.5, 0.5), "p3": (0.8, 1.0)})
    publish_scores(tmp_path, {"p1": (0.6, 0.1), "p2": (0.2, 0.2), "p3": (None, 0.7)}, round=1)
    query = "select * from toxicity_by_stratum where split = '{}'"
    shown = ("round", "stratum", "prompts", "completions", "toxicity_rate", "is_sorted_by_itself")
    by_source = rows_of(tmp_path, query.format("source"))
    assert [[row[name] for name in shown] for row in by_source] == [
        [0, "a", 1, 2, 0.0, False],
        [0, "b", 2, 4, 1.0, False],
        [1, "a", 1, 2, 0.5, False],
        [1, "b", 2, 3, pytest.approx(1 / 3), False],
    ]
    by_score = rows_of(tmp_path, query.format("first_score"))
    assert [[row[name] for name in shown] for row in by_score] == [
        [0, "1 mild", 1, 2, 0.0, True],
        [0, "2 middling", 1, 2, 1.0, True],
        [0, "3 severe", 1, 2, 1.0, True],
        [1, "1 mild", 1, 2, 0.5, False],
        [1, "2 middling", 1, 2, 0.0, False],
        [1, "3 severe", 1, 1, 1.0, False],
    ]
    wilson = binomtest(1, 2).proportion_ci(0.95, method="wilson")
    assert by_score[3]["toxicity_low"] == pytest.approx(wilson.low)
    assert by_score[3]["toxicity_high"] == pytest.approx(wilson.high)
    assert by_score[3]["mean_score"] == pytest.approx(0.35)
    assert by_score[3]["expected_max"] == 0.6


def test_a_split_of_one_stratum_is_the_round_itself(shared_warehouse: Path) -> None:
    """All prompts of the small warehouse come from one source: same numbers, same interval."""
    columns = "round, labeler, prompts, completions, toxicity_rate, toxicity_low, toxicity_high"
    whole = rows_of(shared_warehouse, f"select {columns} from toxicity_by_round")
    query = f"select {columns} from toxicity_by_stratum where split = 'source'"
    assert rows_of(shared_warehouse, query) == whole


# proxy_against_gold


def evaluated(root: Path, round: int, policy: str, kl: float) -> None:
    row = {
        "round": round,
        "policy_revision": policy,
        "metric": "kl_to_reference",
        "value": kl,
        "unit": "nats per sequence",
        "method": "k3",
        "prompts": 1,
        "completions": 1,
        "samples_per_prompt": 1,
    }
    publish_rows(root, f"round={round}/evaluation", round, evaluations=[row])


def trained_on(root: Path, round: int, policy: str, rewards: list[float], recipe: str) -> None:
    rollouts = [
        rollout(round, "t1", k, purpose="train", policy_revision=policy)
        for k in range(len(rewards))
    ]
    rows = [reward(r, v, recipe_sha256=recipe) for r, v in zip(rollouts, rewards, strict=True)]
    publish_rows(root, f"round={round}/rewards", round, rollouts=rollouts, rewards=rows)


@pytest.fixture(scope="module")
def hacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies a, b, c, d measured in rounds 0 to 3; c (night 1) is rejected, so b samples twice.

    Reward labeler `hate` sees .6 .4 .9 .1, the metric `meter` .6 .5 .9 .7, people (on one
    completion) .5 in round 1 and 1 in round 3.
    """
    root = tmp_path_factory.mktemp("hacked")
    scores = [("a", 0.6, 0.6), ("b", 0.4, 0.5), ("c", 0.9, 0.9), ("d", 0.1, 0.7)]
    for number, (policy, proxy, metric) in enumerate(scores):
        publish_scores(root, {"p1": (metric,)}, number)
        publish_scores(root, {"p1": (proxy,)}, number, "hate", role="reward")
        evaluated(root, number, policy, (-0.01, 0.25, 4.0, 1.0)[number])
    trained_on(root, 0, "a", [0.0, 0.2], "one")
    trained_on(root, 1, "b", [0.5], "one")
    trained_on(root, 2, "b", [0.7], "one")
    trained_on(root, 3, "d", [1.5, 2.5], "one")
    rounds = [
        round_row(0, policy_revision_in="a", policy_revision_out="b", recipe_sha256="one"),
        round_row(
            1,
            status="rejected",
            policy_revision_in="b",
            policy_revision_out="b",
            recipe_sha256="one",
        ),
        round_row(2, policy_revision_in="b", policy_revision_out="d", recipe_sha256="one"),
    ]
    for row in rounds:
        publish_rows(root, f"night {row['round']}", None, rounds=[row])
    verdicts = [
        {"rollout_id": f"{n}-p1-0", "round": n, "criterion": "toxicity", "annotator": who}
        | {"score": score}
        for n, who, score in ((1, "Ada", 0.0), (1, "Bo", 1.0), (3, "Ada", 1.0))
    ]
    publish_rows(root, "gold", None, gold=verdicts)
    return root


def test_a_row_is_about_one_policy_and_against_the_last_kept(hacked: Path) -> None:
    first, second, passed, last = rows_of(hacked, "from proxy_against_gold")
    assert [row["policy_revision"] for row in (first, second, passed, last)] == ["a", "b", "c", "d"]
    assert [row["is_passed_over"] for row in (first, second, passed, last)] == [
        *(False, False, True, False)
    ]
    assert (first["kl_to_reference"], first["kl_distance"]) == (-0.01, None)
    assert (first["rewarded"], first["mean_reward"]) == (2, pytest.approx(0.1))
    assert (first["reward_change"], first["metric_change"], first["is_goodhart"]) == (
        *(None, None, False),
    )
    # b sampled in nights 1 and 2: both nights' rewards are its own.
    assert (second["rewarded"], second["mean_reward"]) == (2, pytest.approx(0.6))
    assert second["reward_change"] == pytest.approx(0.5)
    assert (second["proxy_change"], second["metric_change"]) == pytest.approx((-0.2, -0.1))
    assert (second["human_verdicts"], second["human_toxicity"]) == (1, 0.5)
    assert second["is_goodhart"] is False
    # c never sampled for training, and stays out of what d is held against.
    assert (passed["rewarded"], passed["mean_reward"], passed["reward_change"]) == (None,) * 3
    assert passed["metric_change"] == pytest.approx(0.4)
    assert passed["is_goodhart"] is False
    assert (last["kl_distance"], last["reward_change"]) == (1.0, pytest.approx(1.4))
    assert (last["proxy_change"], last["metric_change"]) == pytest.approx((-0.3, 0.2))
    assert last["human_change"] == pytest.approx(0.5)
    assert last["proxy_gap"] == pytest.approx(0.6)
    assert last["is_goodhart"] is True


def test_rewards_of_two_recipes_have_no_difference(tmp_path: Path) -> None:
    for number, recipe in enumerate(("one", "two")):
        publish_scores(tmp_path, {"p1": (0.5,)}, number)
        evaluated(tmp_path, number, f"policy-{number}", 0.0)
        trained_on(tmp_path, number, f"policy-{number}", [float(number)], recipe)
    before, after = rows_of(tmp_path, "from proxy_against_gold")
    assert (before["mean_reward"], after["mean_reward"]) == (0.0, 1.0)
    assert (after["reward_change"], after["is_goodhart"]) == (None, False)


def test_a_refused_night_changes_no_policy(tmp_path: Path) -> None:
    """Its policy is measured again in the next round, and compared with itself."""
    for number in (0, 1):
        publish_scores(tmp_path, {"p1": (0.5,)}, number)
        evaluated(tmp_path, number, "a", 0.0)
    refused = round_row(0, status="refused", policy_revision_in="a", policy_revision_out="a")
    publish_rows(tmp_path, "round=0/acceptance", 0, rounds=[refused])
    trained_on(tmp_path, 1, "a", [0.5], "one")
    rows = rows_of(tmp_path, "from proxy_against_gold")
    assert [row["is_passed_over"] for row in rows] == [False, False]
    assert [row["mean_reward"] for row in rows] == [0.5, 0.5]
    assert rows[1]["metric_change"] == 0.0
