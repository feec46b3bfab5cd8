"""Who may train, and the reason of everybody who may not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.warehouse.builder import RECIPE_SHA256, publish_rows, reward, rollout, round_row
from training.errors import EmptyRound, TrainingError
from training.ppo.config import TrainingConfig
from training.ppo.dataset import trainable_rows
from warehouse.schemas import conform

PLAIN = {
    "purpose": "train",
    "logprobs_mode": "raw_logprobs",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "sampling_json": '{"repetition_penalty": 1.0, "seed": 7}',
    "tokenizer_sha256": "t1",
    "dtype": "float32",
}


def read(root, **changes):
    arguments = {
        "recipe_sha256": RECIPE_SHA256,
        "config": TrainingConfig(),
        "policy_revision": "policy-0",
    } | changes
    return trainable_rows(root, 0, **arguments)


def publish_round(root, rollouts, rewards=None):
    publish_rows(root, "rollouts", 0, rollouts=rollouts)
    if rewards is None:
        rewards = [reward(row, 0.5 * place) for place, row in enumerate(rollouts)]
    publish_rows(root, "rewards", 0, rewards=rewards)


def test_the_rows_come_sorted_with_their_tokens_and_rewards(tmp_path):
    rows = [
        rollout(0, "b", **PLAIN, completion_ids=[7], behavior_logprobs=[-0.5]),
        rollout(0, "a", **PLAIN, prompt_ids=[1]),
    ]
    publish_round(tmp_path, rows)
    found = read(tmp_path)
    assert found.rollout_ids == ["0-a-0", "0-b-0"]
    assert [ids.tolist() for ids in found.prompt_ids] == [[1], [1, 2]]
    assert [ids.tolist() for ids in found.completion_ids] == [[3, 4, 5], [7]]
    assert [logs.tolist() for logs in found.behavior_logprobs] == [[-0.5, -1.0, -0.25], [-0.5]]
    assert found.rewards.tolist() == [0.5, 0.0]
    assert found.rewards.dtype == np.float32
    assert found.finish_reasons == ["stop", "stop"]
    assert found.source_rounds == [0, 0]
    assert found.is_float32
    assert found.excluded.num_rows == 0


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"completion_ids": None, "behavior_logprobs": None}, "no token ids"),
        ({"prompt_ids": []}, "no token ids"),
        ({"completion_ids": [], "behavior_logprobs": []}, "empty completion"),
        ({"behavior_logprobs": None}, "no behavior log-probs"),
        ({"policy_revision": "policy-9"}, "sampled by another policy"),
        ({"tokenizer_sha256": "t2"}, "tokenized by another tokenizer"),
        ({"finish_reason": "abort"}, "finish_reason abort"),
        ({"finish_reason": None}, "finish_reason unknown"),
        ({"logprobs_mode": "processed_logprobs"}, "logprobs_mode processed_logprobs"),
        ({"temperature": 0.7}, "temperature is not 1"),
        ({"temperature": None}, "temperature is not 1"),
        ({"top_p": 0.9}, "top_p is not 1"),
        ({"top_k": 50}, "top_k is set"),
        ({"sampling_json": '{"min_p": 0.1}'}, "sampling parameter min_p is set"),
        ({"sampling_json": '{"new_trick": 1}'}, "sampling parameter new_trick is set"),
        ({"sampling_json": "["}, "sampling_json is not readable"),
    ],
)
def test_a_row_that_ppo_cannot_correct_stays_out_with_its_reason(tmp_path, columns, reason):
    good, bad = rollout(0, "a", **PLAIN), rollout(0, "b", **(PLAIN | columns))
    publish_round(tmp_path, [good, bad])
    found = read(tmp_path, tokenizer_sha256="t1")
    assert found.rollout_ids == ["0-a-0"]
    assert found.excluded.to_pylist() == [
        {"rollout_id": "0-b-0", "source_round": 0, "reward": 0.5, "excluded_reason": reason}
    ]


def test_no_label_is_no_reward_and_no_reward_is_no_zero(tmp_path):
    good, failed, forgotten = (rollout(0, name, **PLAIN) for name in "abc")
    rewards = [reward(good, 1.0), reward(failed, None, excluded_reason="judge: refusal")]
    publish_round(tmp_path, [good, failed, forgotten], rewards)
    found = read(tmp_path)
    assert found.rollout_ids == ["0-a-0"]
    reasons = dict(zip(*map(found.excluded.column, ("rollout_id", "excluded_reason")), strict=True))
    assert {k.as_py(): v.as_py() for k, v in reasons.items()} == {
        "0-b-0": "reward: judge: refusal",
        "0-c-0": "no reward under this recipe",
    }
    assert found.excluded["reward"].to_pylist() == [None, None]


def test_a_hold_out_row_is_not_even_considered(tmp_path):
    publish_round(
        tmp_path, [rollout(0, "a", **PLAIN), rollout(0, "h", **PLAIN | {"purpose": "holdout"})]
    )
    found = read(tmp_path)
    assert found.rollout_ids == ["0-a-0"]
    assert found.excluded.num_rows == 0


def test_a_round_without_a_row_to_train_on_counts_the_reasons(tmp_path):
    rows = [rollout(0, name, **PLAIN | {"top_p": 0.9}) for name in "ab"]
    publish_round(tmp_path, [*rows, rollout(0, "c", **PLAIN | {"temperature": 2.0})])
    with pytest.raises(EmptyRound, match="2 x top_p is not 1, 1 x temperature is not 1"):
        read(tmp_path)


def test_the_recipe_may_be_left_out_where_there_is_only_one(tmp_path):
    row = rollout(0, "a", **PLAIN)
    publish_round(tmp_path, [row])
    assert read(tmp_path, recipe_sha256=None).rewards.tolist() == [0.0]
    publish_rows(
        tmp_path, "second", 0, rewards=[reward(row, 9.0, recipe_sha256="other", recipe="other")]
    )
    assert read(tmp_path, recipe_sha256="other").rewards.tolist() == [9.0]
    with pytest.raises(TrainingError, match=r"2 recipes \['other', 'recipe-1'\]"):
        read(tmp_path, recipe_sha256=None)


def test_rows_are_read_at_the_version_asked_for(tmp_path):
    first, second = rollout(0, "a", **PLAIN), rollout(0, "b", **PLAIN)
    publish_round(tmp_path, [first])
    publish_rows(tmp_path, "more", 0, rollouts=[second], rewards=[reward(second, 1.0)])
    assert read(tmp_path, as_of=1).rollout_ids == ["0-a-0"]
    assert read(tmp_path).rollout_ids == ["0-a-0", "0-b-0"]


def test_a_bfloat16_engine_is_remembered(tmp_path):
    publish_round(tmp_path, [rollout(0, "a", **PLAIN | {"dtype": "bfloat16"})])
    assert not read(tmp_path).is_float32


def publish_nights(root, statuses, tokenizers=None):
    """A night per status, each with two completions of one prompt; and tonight, not yet judged."""
    for number, status in enumerate([*statuses, None]):
        plain = PLAIN | {"tokenizer_sha256": (tokenizers or {}).get(number, "t1")}
        rows = [rollout(number, "a", sample, **plain) for sample in range(2)]
        publish_rows(root, f"rollouts-{number}", number, rollouts=rows)
        publish_rows(root, f"rewards-{number}", number, rewards=[reward(row, 1.0) for row in rows])
        if status is not None:
            publish_rows(root, f"night-{number}", number, rounds=[round_row(number, status=status)])


def window(root, night, **keys):
    config = TrainingConfig(**keys)
    revision = f"policy-{night}"
    return trainable_rows(
        root, night, recipe_sha256=RECIPE_SHA256, config=config, policy_revision=revision
    )


def test_a_replay_window_has_earlier_rounds_of_the_same_reward_and_tokenizer(tmp_path):
    publish_nights(tmp_path, ["completed"] * 3, {1: "t2"})
    found = window(tmp_path, 3, replay_rounds=2)
    assert found.rollout_ids == ["2-a-0", "2-a-1", "3-a-0", "3-a-1"]
    assert found.source_rounds == [2, 2, 3, 3]
    assert found.is_fresh.tolist() == [False, False, True, True]
    left = found.excluded.to_pylist()
    assert {(r["source_round"], r["excluded_reason"]) for r in left} == {
        (1, "tokenized by another tokenizer")
    }
    assert window(tmp_path, 3).source_rounds == [3, 3]
    assert window(tmp_path, 0, replay_rounds=2).source_rounds == [0, 0]


@pytest.mark.parametrize("status", ["refused", "rejected"])
def test_a_night_that_came_to_nothing_is_not_replayed_unless_told_so(tmp_path, status):
    publish_nights(tmp_path, [status])
    found = window(tmp_path, 1, replay_rounds=1)
    assert found.source_rounds == [1, 1]
    reasons = found.excluded["excluded_reason"].unique().to_pylist()
    assert reasons == [f"its round is {status}"]
    told = window(tmp_path, 1, replay_rounds=1, replay_statuses=(status,))
    assert told.source_rounds == [0, 0, 1, 1]


def test_with_a_lag_the_rounds_of_earlier_nights_train(tmp_path):
    publish_nights(tmp_path, ["completed"] * 2)
    assert window(tmp_path, 2, lag=1).source_rounds == [1, 1]
    assert window(tmp_path, 2, lag=1, replay_rounds=1).source_rounds == [0, 0, 1, 1]
    assert not window(tmp_path, 2, lag=1).is_fresh.any()
    assert window(tmp_path, 0, lag=1).is_fresh.all()


def test_a_completion_without_a_sibling_has_no_baseline(tmp_path):
    rows = [rollout(0, "a", 0, **PLAIN), rollout(0, "a", 1, **PLAIN), rollout(0, "b", **PLAIN)]
    bent = rollout(0, "b", 1, **PLAIN | {"top_p": 0.9})
    publish_round(tmp_path, [*rows, bent])
    found = read(tmp_path, config=TrainingConfig(advantage="rloo"))
    assert found.rollout_ids == ["0-a-0", "0-a-1"]
    assert {row["rollout_id"]: row["excluded_reason"] for row in found.excluded.to_pylist()} == {
        "0-b-0": "no other completion of its prompt may train (advantage rloo)",
        "0-b-1": "top_p is not 1",
    }


def test_the_log_of_a_run_has_the_excluded_rows_too(tmp_path):
    import torch

    from training.ppo.log import train_use_table
    from training.ppo.stored_round import StoredRound

    publish_round(tmp_path, [rollout(0, "a", **PLAIN), rollout(0, "b", **PLAIN | {"top_p": 0.9})])
    stored = StoredRound(*[torch.ones(1, 3)] * 7)
    table = train_use_table(read(tmp_path), stored, "run", round=0, epochs=2)
    assert table.schema == conform("train_use", table).schema
    used, left = table.to_pylist()
    assert (used["is_used"], used["excluded_reason"], used["epochs"]) == (True, None, 2)
    assert (left["is_used"], left["excluded_reason"], left["epochs"]) == (
        False,
        "top_p is not 1",
        0,
    )
    assert left["importance_weight"] is None
    assert isinstance(table, pa.Table)
