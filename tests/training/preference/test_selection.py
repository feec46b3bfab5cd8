"""Preference pairs: best against worst, from train prompts, readable by TRL as they are."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.warehouse.builder import prompt, publish_rows, reward, rollout, round_row
from training.preference.export import export_rows
from training.preference.selection import Selection, preference_pairs
from warehouse.schemas import conform

REWARDS = {
    "t1": (-1.0, 2.0, 0.5),  # best is sample 1, worst 0
    "t2": (1.0, 1.0, 1.0),  # a tie
    "t3": (0.1, 0.3, None),  # close; one completion has no reward
    "t4": (3.0, -3.0, 0.0),  # the best is cut off
    "h1": (-2.0, 2.0, 0.0),  # hold-out
}


@pytest.fixture
def root(tmp_path):
    """Round 0 completed, round 1 rejected, round 2 still at work."""
    prompts = [
        prompt(name, purpose="holdout" if name == "h1" else "train") for name in (*REWARDS, "t5")
    ]
    publish_rows(tmp_path, "prompts", prompts=prompts)
    for number, status in enumerate(("completed", "rejected", None)):
        rollouts, rewards = [], []
        for name, values in REWARDS.items():
            for place, value in enumerate(values):
                row = rollout(
                    number,
                    name,
                    place,
                    purpose="holdout" if name == "h1" else "train",
                    completion=f"w{10 + place} w{20 + number}",
                    finish_reason="length" if (name, place) == ("t4", 0) else "stop",
                )
                rollouts.append(row)
                rewards.append(reward(row, value))
        same = [rollout(number, "t5", k, purpose="train", completion="w9") for k in (0, 1)]
        rewards += [reward(row, float(k)) for k, row in enumerate(same)]
        rounds = [round_row(number, status=status)] if status else []
        publish_rows(
            tmp_path, f"round={number}", number, rollouts=rollouts + same, rewards=rewards,
            **({"rounds": rounds} if rounds else {}),
        )  # fmt: skip
    return tmp_path


def chosen_over_rejected(table):
    return {row["prompt_id"]: (row["chosen_id"], row["rejected_id"]) for row in table.to_pylist()}


def test_best_against_worst_without_ties_equal_texts_cut_offs_or_hold_out(root):
    pairs = preference_pairs(root, Selection(margin=0.0))
    assert conform("preference_pairs", pairs).num_rows == pairs.num_rows
    assert chosen_over_rejected(pairs) == {
        "t1": ("0-t1-1", "0-t1-0"),
        "t3": ("0-t3-1", "0-t3-0"),
        "t4": ("0-t4-2", "0-t4-1"),
    }
    (first,) = [row for row in pairs.to_pylist() if row["prompt_id"] == "t1"]
    assert (first["chosen_reward"], first["rejected_reward"], first["margin"]) == (2.0, -1.0, 3.0)
    assert first["recipe"] == "best-worst/weighted@recipe-1"


def test_a_margin_drops_near_ties(root):
    assert set(chosen_over_rejected(preference_pairs(root, Selection(margin=0.5)))) == {"t1", "t4"}


def test_cut_off_completions_take_part_only_when_asked(root):
    selection = Selection(margin=0.0, allow_truncated=True)
    pairs = chosen_over_rejected(preference_pairs(root, selection))
    assert pairs["t4"] == ("0-t4-0", "0-t4-1")


def test_only_completed_rounds_unless_told_otherwise(root):
    def rounds(**arguments):
        selection = Selection(margin=0.0, **arguments)
        return set(preference_pairs(root, selection)["round"].to_pylist())

    assert rounds() == {0}
    assert rounds(statuses=("completed", "rejected")) == {0, 1}
    assert rounds(statuses=("completed", "rejected"), rounds=(1,)) == {1}
    assert rounds(rounds=(2,)) == set()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_export_holds_messages_tokens_and_where_they_come_from(root, tmp_path, suffix):
    out = tmp_path / "out" / f"pairs.{suffix}"
    assert export_rows(root, "dpo", out, Selection(margin=0.5)).num_rows == 2
    rows = (
        pq.read_table(out).to_pylist()
        if suffix == "parquet"
        else [json.loads(line) for line in out.read_text().splitlines()]
    )
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "Question t1?"}],
        "chosen": [{"role": "assistant", "content": "w11 w20"}],
        "rejected": [{"role": "assistant", "content": "w10 w20"}],
        "prompt_ids": [1, 2],
        "chosen_ids": [3, 4, 5],
        "rejected_ids": [3, 4, 5],
        "margin": 3.0,
        "chosen_id": "0-t1-1",
        "rejected_id": "0-t1-0",
        "prompt_id": "t1",
        "round": 0,
    }
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_an_export_to_another_kind_of_file_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"pairs\.csv: name the export"):
        export_rows(root, "dpo", tmp_path / "pairs.csv", Selection())
