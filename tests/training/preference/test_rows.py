"""The rows of each trainer: which completions, which labels, ties, stored pairs, hold-out."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.warehouse.builder import prompt, publish_rows, reward, rollout, round_row
from training.errors import TrainingError
from training.preference.rows import dpo_rows, kto_rows, require, reward_rows, sample, sft_rows
from training.preference.selection import Selection

ALL = Selection(margin=0.0)
REWARDS = {
    "a": (1.0, 3.0, 3.0),  # the best twice
    "b": (-2.0, 0.0, None),
    "c": (1.0,),  # an only sample
    "h": (5.0, -5.0),  # hold-out
}


def pair(name, chosen, rejected, **columns):
    return {
        "prompt_id": name, "round": 0, "recipe": "people", "chosen_id": chosen,
        "rejected_id": rejected, "margin": 1.0,
    } | columns  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """One completed round; the reference scored all but `0-b-1`, and `0-a-2` has too few."""
    publish_rows(
        tmp_path, "prompts",
        prompts=[prompt(name, purpose="holdout" if name == "h" else "train") for name in REWARDS],
    )  # fmt: skip
    rollouts, rewards = [], []
    for name, values in REWARDS.items():
        for k, value in enumerate(values):
            row = rollout(
                0, name, k, purpose="holdout" if name == "h" else "train",
                completion_ids=[10 + k, 20, 2], prompt_ids=[ord(name), 4],
            )  # fmt: skip
            rollouts.append(row)
            rewards.append(reward(row, value))
    scored = [
        {
            "rollout_id": row["rollout_id"],
            "round": 0,
            "policy_revision": revision,
            "role": "reference",
            "logprobs": ([-1.0, -0.5] if row["rollout_id"] == "0-a-2" else [-1.0, -0.5, -0.25])
            if revision == "policy-0"
            else [-9.0, -9.0, -9.0],
        }
        for row in rollouts
        for revision in ("policy-0", "another")  # not the reference of the round
        if (row["rollout_id"], revision) != ("0-b-1", "policy-0")
    ]
    publish_rows(
        tmp_path, "round=0", 0, rollouts=rollouts, rewards=rewards, policy_logprobs=scored,
        rounds=[round_row(0, reference_revision="policy-0")],
        preference_pairs=[pair("a", "0-a-0", "0-a-1")],
    )  # fmt: skip
    return tmp_path


def test_pairs_carry_the_sum_of_their_reference_log_probs_or_nothing(root):
    rows = {row["prompt_id"]: row for row in dpo_rows(root, ALL).to_pylist()}
    assert set(rows) == {"a", "b"}
    assert (rows["a"]["chosen_id"], rows["a"]["rejected_id"]) == ("0-a-1", "0-a-0")
    assert (rows["a"]["ref_chosen_logps"], rows["a"]["ref_rejected_logps"]) == (-1.75, -1.75)
    assert rows["a"]["reference_revision"] == "policy-0"
    assert rows["b"]["chosen_id"] == "0-b-1"
    assert rows["b"]["ref_chosen_logps"] is None
    assert rows["b"]["ref_rejected_logps"] == -1.75
    with pytest.raises(TrainingError, match=r"1 of 2 rows have no stored reference .*'0-b-1'"):
        require(dpo_rows(root, ALL), ("ref_chosen_logps",))


def test_a_stored_pair_recipe_takes_the_place_of_best_against_worst(root):
    rows = dpo_rows(root, Selection(margin=0.0, pairs="people")).to_pylist()
    assert [(row["chosen_id"], row["rejected_id"]) for row in rows] == [("0-a-0", "0-a-1")]
    assert dpo_rows(root, Selection(margin=1.5, pairs="people")).num_rows == 0
    with pytest.raises(TrainingError, match="no pairs of recipe 'nobody'; there are: people"):
        dpo_rows(root, Selection(margin=0.0, pairs="nobody"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (pair("h", "0-h-0", "0-h-1"), r"1 of 2 rows are of hold-out prompts, .*'0-h-0'"),
        (pair("b", "0-h-0", "0-b-1"), r"1 of 2 rows are of hold-out prompts, .*'0-h-0'"),
        (pair("b", "0-a-0", "0-b-1"), r"1 of 2 rows join completions of different prompts"),
        (pair("b", "0-b-0", "gone"), r"1 of 2 rows name a rollout that the warehouse does not"),
    ],
)
def test_stored_pairs_of_hold_out_or_mixed_up_prompts_are_refused(root, stored, message):
    publish_rows(root, "more-pairs", 0, preference_pairs=[stored])
    for rows_of in (dpo_rows, reward_rows):
        with pytest.raises(TrainingError, match=message):
            rows_of(root, Selection(margin=0.0, pairs="people"))


def test_kto_calls_desirable_what_is_above_the_mean_and_leaves_out_what_is_at_it(root):
    # The mean of 1, 3, 3, -2, 0, 1 is 1: the completions that got 1 say nothing.
    rows = {row["rollout_id"]: row for row in kto_rows(root, ALL).to_pylist()}
    assert {name: row["label"] for name, row in rows.items()} == {
        "0-a-1": True, "0-a-2": True, "0-b-0": False, "0-b-1": False
    }  # fmt: skip
    assert rows["0-a-1"]["threshold"] == 1.0
    assert rows["0-a-1"]["ref_logps"] == -1.75
    by_hand = kto_rows(root, Selection(threshold=0.5)).to_pylist()
    assert [(row["rollout_id"], row["label"]) for row in by_hand] == [
        ("0-a-0", True), ("0-a-1", True), ("0-a-2", True), ("0-b-0", False), ("0-b-1", False),
        ("0-c-0", True),
    ]  # fmt: skip


def test_the_zero_point_of_kto_is_the_next_sample_of_the_prompt(root):
    rows = kto_rows(root, Selection(threshold=0.5)).to_pylist()
    assert {row["rollout_id"]: row["KL_completion_ids"][0] - 10 for row in rows} == {
        "0-a-0": 1, "0-a-1": 2, "0-a-2": 0, "0-b-0": 1, "0-b-1": 0, "0-c-0": 0
    }  # fmt: skip
    of = {row["rollout_id"]: (row["ref_logps"], row["ref_KL_logps"]) for row in rows}
    assert of["0-a-1"] == (-1.75, None)  # the next one's log-probs do not match its tokens
    assert of["0-a-2"] == (None, -1.75)


def test_sft_takes_the_best_and_of_equals_the_first_with_the_prompt_masked(root):
    rows = sft_rows(root, ALL).to_pylist()
    assert [row["rollout_id"] for row in rows] == ["0-a-1", "0-b-1", "0-c-0"]
    assert rows[0]["input_ids"] == [ord("a"), 4, 11, 20, 2]
    assert rows[0]["labels"] == [-100, -100, 11, 20, 2]


def test_a_reward_model_reads_the_dialogue_and_no_ids_under_names_that_trl_takes(root):
    (row,) = [r for r in reward_rows(root, ALL).to_pylist() if r["prompt_id"] == "a"]
    assert row["prompt"] == [{"role": "user", "content": "Question a?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "Answer 0-a-1."}]
    assert row["margin"] == 2.0
    assert row["chosen_completion_ids"] == [11, 20, 2]
    assert "chosen_ids" not in row


def test_a_sample_of_the_rows_is_seeded_and_keeps_their_order():
    rows = pa.table({"place": list(range(50))})
    drawn = sample(rows, 10, 3)["place"].to_pylist()
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert (
        drawn
        == sample(rows, 10, 3)["place"].to_pylist()
        != sample(rows, 10, 4)["place"].to_pylist()
    )
    assert sample(rows, None, 3) is rows
    assert sample(rows, 50, 3) is rows
