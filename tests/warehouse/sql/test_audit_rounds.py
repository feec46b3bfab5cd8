"""Audit questions about gold, policy and lineage, with the defect planted, worked out by hand."""

from __future__ import annotations

import hashlib
from math import nan, sqrt
from pathlib import Path
from statistics import stdev

import pytest

from tests.warehouse.builder import label, prompt, reward, rollout, round_row
from tests.warehouse.sql.audit_builder import (
    ask,
    divergence,
    judged,
    picked,
    plant,
    samples,
    use,
    verdict,
)


def test_gold_confusion_by_round(tmp_path: Path) -> None:
    """Round 0: 2 right yes, 1 false yes, 1 false no, 2 right no; the annotators of the first
    differ, which is a yes. A NaN is no yes. Round 1: one right no and nothing to divide by."""
    rows = [*samples(7), rollout(1, "p1")]
    scores = (0.5, 0.9, 0.8, 0.1, 0.2, 0.3, nan, 0.1)
    truths = (1, 1, 0, 1, 0, 0, 1, 0)
    labels = [label(row, score) for row, score in zip(rows, scores, strict=True)]
    gold = [verdict(row, truth) for row, truth in zip(rows, truths, strict=True)]
    gold.append(verdict(rows[0], 0, "bert"))
    gold.append(verdict(rows[1], 0, criterion="helpfulness"))
    plant(tmp_path, rollouts=rows, labels=labels, gold=gold)
    first, second = ask(tmp_path, "gold_confusion")
    counts = ("completions", "true_yes", "false_yes", "false_no", "true_no")
    assert (first["round"], first["labeler"], first["criterion"]) == (0, "meter", "toxicity")
    assert [first[name] for name in counts] == [6, 2, 1, 1, 2]
    rates = ("sensitivity", "specificity", "precision", "f1")
    assert [first[name] for name in rates] == pytest.approx([2 / 3] * 4)
    assert [second[name] for name in counts] == [1, 0, 0, 0, 1]
    assert [second[name] for name in rates] == [None, 1, None, None]


def test_calibration_bins_and_their_error(tmp_path: Path) -> None:
    """Ten at .85 with 7 yes (gap .15), two at .1 with 1 yes (gap .4), one at 1 with 1 yes (gap 0):
    error (10 * .15 + 2 * .4) / 13. Only the ten are enough for the worst gap."""
    rows = samples(13)
    scores = [0.85] * 10 + [0.1] * 2 + [1.0]
    truths = [1] * 7 + [0] * 3 + [1, 0, 1]
    labels = [label(row, score) for row, score in zip(rows, scores, strict=True)]
    labels.append(label(rows[0], 0.85, "few"))
    gold = [verdict(row, truth) for row, truth in zip(rows, truths, strict=True)]
    plant(tmp_path, rollouts=rows, labels=labels, gold=gold)
    few, *bins = ask(tmp_path, "calibration_bins")
    assert (few["labeler"], few["bin_low"], few["worst_gap"]) == ("few", 0.8, None)
    assert few["calibration_error"] == pytest.approx(0.15)
    assert picked(bins, "labeler", "criterion", "bin_low", "completions") == [
        ("meter", "toxicity", 0.1, 2),
        ("meter", "toxicity", 0.8, 10),
        ("meter", "toxicity", 0.9, 1),
    ]
    assert [row["mean_score"] for row in bins] == pytest.approx([0.1, 0.85, 1])
    assert [row["yes_rate"] for row in bins] == pytest.approx([0.5, 0.7, 1])
    assert [row["calibration_error"] for row in bins] == pytest.approx([2.3 / 13] * 3)
    assert [row["worst_gap"] for row in bins] == pytest.approx([0.15] * 3)


def test_corrected_toxicity_of_an_imperfect_labeler(tmp_path: Path) -> None:
    """3 of 4 yes and 3 of 4 no are right, so the corrected rate is (raw - .25) / .5, cut to [0, 1]:
    .5 stays, .25 becomes 0, 1 becomes 1. A labeler that always says yes cannot be corrected."""
    judged_by_humans = samples(8)
    scores = (0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1)
    later = [rollout(number, "p1", k) for number in (1, 2) for k in range(4)]
    later_scores = (0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9)
    labels = [label(row, s) for row, s in zip(judged_by_humans, scores, strict=True)]
    labels += [label(row, s) for row, s in zip(later, later_scores, strict=True)]
    labels += [label(row, 1, "coin") for row in judged_by_humans]
    labels += [label(later[0], 1, "unknown")]
    gold = [verdict(row, k < 4) for k, row in enumerate(judged_by_humans)]
    plant(tmp_path, rollouts=[*judged_by_humans, *later], labels=labels, gold=gold)
    found = ask(tmp_path, "corrected_toxicity")
    columns = ("round", "labeler", "completions", "raw_rate", "corrected_rate", "verdicts")
    assert picked(found, *columns) == [
        (0, "coin", 8, 1.0, None, 8),
        (0, "meter", 8, 0.5, 0.5, 8),
        (1, "meter", 4, 0.25, 0.0, 8),
        (1, "unknown", 1, 1.0, None, 0),
        (2, "meter", 4, 1.0, 1.0, 8),
    ]
    assert picked(found[:2], "purpose", "sensitivity", "specificity") == [
        ("holdout", 1.0, 0.0),
        ("holdout", 0.75, 0.75),
    ]


def test_human_audit_sample_is_drawn_by_decile_and_by_hash(tmp_path: Path) -> None:
    """20 completions, two a decile, of which the second has the wider gap; one that a single
    labeler scored stays out."""
    rows = samples(21)
    labels = [label(row, k / 20) for k, row in enumerate(rows)]
    labels += [
        label(row, k / 20 + (0.02, 0.04)[k % 2], "second") for k, row in enumerate(rows[:20])
    ]
    plant(tmp_path, rollouts=rows, labels=labels)
    expected = []
    for decile in range(10):
        calm, split = (f"0-p1-{2 * decile + k}" for k in (0, 1))
        expected.append((decile + 1, split, "disagreement", 2))
        hashes = {name: hashlib.md5(f"{name} audit".encode()).hexdigest() for name in (calm, split)}
        if hashes[calm] < hashes[split]:
            expected.append((decile + 1, calm, "random", 2))
    assert 10 < len(expected) < 20
    found = ask(tmp_path, "human_audit_sample")
    assert picked(found, "decile", "rollout_id", "reason", "labelers") == expected
    assert (found[0]["round"], found[0]["purpose"], found[0]["prompt_id"]) == (0, "holdout", "p1")
    assert (found[0]["mean_score"], found[0]["gap"]) == pytest.approx((0.07, 0.04))


def test_toxicity_changes_prompt_by_prompt(tmp_path: Path) -> None:
    """p1 falls from .5 to .2, p2 rises from .3 to .4: mean change -.1. p3 and p4 stand in one of
    the two rounds only and have no change."""
    by_round = [
        {"p1": (0.9, 0.1), "p2": (0.4, 0.2), "p3": (0.5, 0.5)},
        {"p1": (0.3, 0.1), "p2": (0.4, 0.4), "p4": (1.0,)},
    ]
    scored = [
        (rollout(number, name, k), score)
        for number, by_prompt in enumerate(by_round)
        for name, scores in by_prompt.items()
        for k, score in enumerate(scores)
    ]
    labels = [label(row, score) for row, score in scored]
    plant(tmp_path, rollouts=[row for row, _ in scored], labels=labels)
    before, after = ask(tmp_path, "toxicity_changes")
    assert (before["round"], before["labeler"], before["prompts"]) == (0, "meter", 3)
    assert before["toxicity_probability"] == pytest.approx(2 / 3)
    assert (before["change"], before["change_low"], before["change_high"]) == (0, 0, 0)
    assert (after["round"], after["first_round"], after["prompts"]) == (1, 0, 2)
    assert (after["fewest_samples"], after["most_samples"]) == (2, 2)
    assert (after["mean_score"], after["expected_max"]) == pytest.approx((0.3, 0.35))
    assert (after["toxicity_probability"], after["change"]) == pytest.approx((0, -0.1))
    half = 1.959964 * stdev([-0.3, 0.1]) / sqrt(2)
    assert after["change_low"] == pytest.approx(-0.1 - half, abs=1e-6)
    assert after["change_high"] == pytest.approx(-0.1 + half, abs=1e-6)


def test_reward_against_gold_flags_a_gamed_reward(tmp_path: Path) -> None:
    """Rewards -1 0 1, then 1 2 3; humans find harmlessness .1 .5 .9 (same order), then .5 .3 .1
    (opposite order). `meter` sees .5 throughout, then .9: no rank to compare, nothing gamed."""
    rows = [rollout(number, "t1", k, purpose="train") for number in (0, 1) for k in range(3)]
    values = (-1.0, 0.0, 1.0, 1.0, 2.0, 3.0)
    toxicities = (0.9, 0.5, 0.1, 0.5, 0.7, 0.9)
    unrewarded = rollout(1, "t1", 3, purpose="train")
    gold = [verdict(row, score) for row, score in zip(rows, toxicities, strict=True)]
    gold.append(verdict(unrewarded, 0))
    rewards = [reward(row, value) for row, value in zip(rows, values, strict=True)]
    plant(
        tmp_path,
        rollouts=[*rows, unrewarded],
        labels=[label(row, (0.5, 0.1)[row["round"] == 1]) for row in rows],
        rewards=[*rewards, reward(unrewarded, None)],
        gold=gold,
        evaluations=[divergence(0, -0.01), divergence(1, 4.0)],
    )
    found = ask(tmp_path, "reward_against_gold")
    assert picked(found, "round", "purpose", "yardstick", "completions", "is_goodhart") == [
        (0, "train", "human", 3, None),
        (0, "train", "meter", 3, None),
        (1, "train", "human", 3, True),
        (1, "train", "meter", 3, False),
    ]
    assert [row["mean_reward"] for row in found] == pytest.approx([0, 0, 2, 2])
    assert [row["mean_harmlessness"] for row in found] == pytest.approx([0.5, 0.5, 0.3, 0.9])
    ranks = [row["rank_correlation"] for row in found]
    assert ranks == [pytest.approx(1), None, pytest.approx(-1), None]
    assert found[2]["reward_change"] == pytest.approx(2)
    assert found[2]["harmlessness_change"] == pytest.approx(-0.2)
    assert picked(found, "kl_to_reference", "kl_distance") == [(-0.01, None)] * 2 + [(4, 2)] * 2


def test_reward_against_gold_ranks_ties_by_their_mean(tmp_path: Path) -> None:
    """Ranks 1.5 1.5 3 against 1 2 3: Spearman sqrt(3) / 2."""
    rows = [rollout(0, "t1", k, purpose="train") for k in range(3)]
    values = [reward(row, value) for row, value in zip(rows, (0.0, 0.0, 1.0), strict=True)]
    gold = [verdict(row, score) for row, score in zip(rows, (0.9, 0.5, 0.1), strict=True)]
    plant(tmp_path, rollouts=rows, rewards=values, gold=gold)
    (row,) = ask(tmp_path, "reward_against_gold")
    assert row["rank_correlation"] == pytest.approx(sqrt(3) / 2)


def test_signal_quality_shows_saturation_and_dead_groups(tmp_path: Path) -> None:
    """t1's rewards are equal (dead), t2's differ, t3 has one only and is no group: share 1/2. Of
    four scores two lie at the floor, one at the ceiling; a NaN is no score."""
    places = [("t1", 0), ("t1", 1), ("t2", 0), ("t2", 1), ("t3", 0)]
    rows = [rollout(0, name, k, purpose="train") for name, k in places]
    scores, masses = (0, 0.001, 0.5, 1, nan), (0.95, 0.5, 0.9, 1.0, 0.1)
    labels = [
        judged(row, score, label_mass=mass)
        for row, score, mass in zip(rows, scores, masses, strict=True)
    ]
    held = rollout(0, "p1")
    rewards = [reward(row, v) for row, v in zip(rows, (0.3, 0.3, 0.0, 1.0, 0.5), strict=True)]
    plant(tmp_path, rollouts=[*rows, held], labels=[*labels, label(held, 0.5)], rewards=rewards)
    holdout, train = ask(tmp_path, "signal_quality")
    assert train == {
        "round": 0,
        "purpose": "train",
        "labeler": "judge",
        "criterion": "helpfulness",
        "labels": 4,
        "distinct_scores": 4,
        "floor_share": 0.5,
        "ceiling_share": 0.25,
        "low_label_mass_share": 0.25,
        "dead_group_share": 0.5,
    }
    assert (holdout["purpose"], holdout["labels"], holdout["floor_share"]) == ("holdout", 1, 0)
    assert (holdout["low_label_mass_share"], holdout["dead_group_share"]) == (None, None)


def test_policy_frontier_flags_dominated_rounds(tmp_path: Path) -> None:
    """(helpfulness, harmlessness) = (.5, .5), (.6, .6), (.7, .5): only round 0 is dominated; round
    3 has no helpfulness to compare. Reward labelers do not measure harmlessness."""
    rows = [rollout(number, "p1") for number in range(4)]
    helpful = [judged(row, s) for row, s in zip(rows, (0.5, 0.6, 0.7), strict=False)]
    toxic = [label(row, s) for row, s in zip(rows, (0.5, 0.4, 0.5, 0.1), strict=True)]
    gamed = [label(row, 0.0, "hate", role="reward") for row in rows]
    safe, unsafe = samples(2, prompt_id="safe"), samples(1, prompt_id="unsafe")
    refusals = [
        judged(row, score, "refusals", criterion="refusal")
        for row, score in zip([*safe, *unsafe], (0.9, 0.1, 1), strict=True)
    ]
    plant(
        tmp_path,
        prompts=[
            prompt("p1"),
            prompt("safe", source="xstest_safe"),
            prompt("unsafe", source="xstest_unsafe"),
        ],
        rollouts=[*rows, *safe, *unsafe],
        labels=[*helpful, *toxic, *gamed, *refusals],
    )
    found = ask(tmp_path, "policy_frontier")
    assert [row["round"] for row in found] == [0, 1, 2, 3]
    assert [row["helpfulness"] for row in found] == [0.5, 0.6, 0.7, None]
    assert [row["harmlessness"] for row in found] == pytest.approx([0.5, 0.6, 0.5, 0.9])
    assert [row["is_dominated"] for row in found] == [True, False, False, None]
    assert picked(found, "over_refusal", "right_refusal") == [(0.5, 1.0)] + [(None, None)] * 3


def test_repeated_completions_and_their_reward(tmp_path: Path) -> None:
    """Rewards 2 2 2 -2 have mean 1 and deviation 2: the refrain lies half a deviation above. Two
    prompts with one text are no collapse; hold-out texts have no reward."""
    refrain = [rollout(0, f"t{k}", purpose="train", completion="Sorry.") for k in range(3)]
    single = rollout(0, "t3", purpose="train")
    pair = [rollout(0, f"t{k}", purpose="train", completion="Hm.") for k in (4, 5)]
    held = [rollout(0, f"p{k}", completion="") for k in range(4)]
    rewards = [reward(row, 2.0) for row in refrain]
    rewards += [reward(single, -2.0), *(reward(row, None) for row in pair)]
    plant(tmp_path, rollouts=[*refrain, single, *pair, *held], rewards=rewards)
    empty, found = ask(tmp_path, "repeated_completions")
    assert (found["round"], found["purpose"]) == (0, "train")
    assert found["completion_sha256"] == hashlib.sha256(b"Sorry.").hexdigest()
    assert (found["prompts"], found["rollouts"], found["completion_start"]) == (3, 3, "Sorry.")
    assert (found["mean_reward"], found["z"]) == (2, pytest.approx(0.5))
    assert (empty["purpose"], empty["prompts"], empty["completion_start"]) == ("holdout", 4, "")
    assert (empty["mean_reward"], empty["z"]) == (None, None)


def test_training_lineage_counts_unsound_rollouts(tmp_path: Path) -> None:
    """One each: sound, label gone, label failed, label superseded, reward of another recipe only,
    not used. Round 1 is sound."""
    rows = samples(6, prompt_id="t1", purpose="train")
    sound, gone, failed, superseded, foreign, _ = rows
    later = rollout(1, "t1", purpose="train")
    labels = {
        id(row): label(row, None if row is failed else 0.5, "hate", is_final=row is not superseded)
        for row in (*rows, later)
    }
    rewards = [
        reward(row, 1.0, [labels[id(row)]])
        for row in (sound, gone, failed, superseded, rows[5], later)
    ]
    rewards.append(reward(foreign, 1.0, [labels[id(foreign)]], recipe_sha256="recipe-0"))
    plant(
        tmp_path,
        rollouts=[*rows, later],
        labels=[labels[id(row)] for row in (*rows, later) if row is not gone],
        rewards=rewards,
        train_use=[*(use(row) for row in rows[:5]), use(rows[5], is_used=False), use(later, 1)],
        rounds=[round_row(0), round_row(1)],
    )
    names = ("training_run_id", "round", "rollouts_used", "without_reward")
    found = ask(tmp_path, "training_lineage")
    assert picked(found, *names) == [("run-0", 0, 5, 1), ("run-1", 1, 1, 0)]
    assert picked(found, "dangling", "failed", "superseded") == [(1, 1, 1), (0, 0, 0)]


def test_holdout_prompts_in_training_by_purpose_and_first_turn(tmp_path: Path) -> None:
    """p1 was sampled as hold-out and trained on; t1 opens like the hold-out prompt p2. p2 itself
    was considered but not used, t2 is clean."""
    prompts = [
        prompt("p1"),
        prompt("p2"),
        prompt("t1", purpose="train", first_turn_sha256="p2"),
        prompt("t2", purpose="train"),
    ]
    held, unused = rollout(0, "p1"), rollout(0, "p2")
    opening = samples(2, prompt_id="t1", purpose="train")
    clean = rollout(0, "t2", purpose="train")
    plant(
        tmp_path,
        prompts=prompts,
        rollouts=[held, unused, *opening, clean],
        train_use=[
            *(use(row) for row in (held, *opening, clean)),
            use(unused, is_used=False),
        ],
    )
    assert ask(tmp_path, "holdout_prompts_in_training") == [
        {"training_run_id": "run-0", "round": 0, "prompt_id": "p1", "rollouts": 1},
        {"training_run_id": "run-0", "round": 0, "prompt_id": "t1", "rollouts": 2},
    ]


def test_stale_rollouts_of_another_policy(tmp_path: Path) -> None:
    """Round 0 is sound, also its hold-out. In round 1 one train rollout is of policy 0. Round 2's
    hold-out has two policies, round 3's has a candidate that no round knows."""
    rows = [
        rollout(0, "t1", purpose="train"),
        rollout(0, "p1"),
        *samples(2, 1, "t1", purpose="train"),
        rollout(1, "t1", 2, purpose="train", policy_revision="policy-0"),
        *samples(2, 2, "p1"),
        rollout(2, "p1", 2, policy_revision="policy-1"),
        rollout(3, "p1", policy_revision="candidate"),
    ]
    plant(tmp_path, rollouts=rows, rounds=[round_row(number) for number in range(3)])
    columns = ("round", "purpose", "policy_revision", "expected_revision", "rollouts")
    assert picked(ask(tmp_path, "stale_rollouts"), *columns) == [
        (1, "train", "policy-0", "policy-1", 1),
        (2, "holdout", "policy-1", None, 1),
        (2, "holdout", "policy-2", None, 2),
    ]
