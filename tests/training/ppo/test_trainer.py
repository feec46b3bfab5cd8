"""PPO over a stored round: it learns, it repeats itself, and it refuses what it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny import EOS, sample_rows, tiny_policy
from training.policy.actor_critic import ActorCritic
from training.policy.sequences import sequence_logprobs
from training.ppo.config import TrainingConfig
from training.ppo.guards import DivergedError, ParityError
from training.ppo.trainer import train_ppo
from training.revision import policy_revision
from warehouse.schemas import conform

LUCKY = 7
CONFIG = TrainingConfig(epochs=1, minibatch_size=8, micro_batch_tokens=64, warmup_steps=0)


def luck(completion: list[int]) -> float:
    return float(completion.count(LUCKY)) - 0.2 * len(completion)


def joined(old, fresh):
    """The rows of two nights, of which only the second's are the policy's own."""
    both = {
        name: getattr(old, name) + getattr(fresh, name)
        for name, value in vars(old).items()
        if isinstance(value, list)
    }
    return replace(
        old,
        **both,
        rewards=np.concatenate([old.rewards, fresh.rewards]),
        is_fresh=np.concatenate([~old.is_fresh, fresh.is_fresh]),
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def rows(policy):
    return sample_rows(policy, 32, luck)


def train(rows, policy, out, config=CONFIG, **changes):
    arguments = {
        "policy_dir": policy,
        "reference_dir": policy,
        "kl_coefficient": 0.05,
        "round": 0,
        "seed": 0,
        "device": "cpu",
    } | changes
    return train_ppo(rows, out_dir=out, config=config, **arguments)


def metric(outcome, name):
    found = outcome.training_metrics.to_pylist()
    return [row["value"] for row in found if row["metric"] == name]


def test_stored_rollouts_make_the_rewarded_token_likelier(tmp_path):
    config = TrainingConfig(learning_rate=3e-3, minibatch_size=32, max_kl_per_token=1.0)
    base = current = tiny_policy(tmp_path / "base")
    shares, rewards = [], []
    for number in range(3):
        rows = sample_rows(current, 192, luck, seed=number)
        tokens = np.concatenate(rows.completion_ids)
        shares.append(float((tokens == LUCKY).mean()))
        rewards.append(float(rows.rewards.mean()))
        outcome = train(
            rows, current, tmp_path / f"p{number}", config, reference_dir=base, round=number
        )
        current = outcome.policy_dir
    final = sample_rows(current, 192, luck, seed=9)
    shares.append(float((np.concatenate(final.completion_ids) == LUCKY).mean()))
    rewards.append(float(final.rewards.mean()))
    assert shares[0] < 0.06
    assert shares[3] > 4 * shares[0]
    assert rewards == sorted(rewards)
    reference = sequence_logprobs(base, final.prompt_ids, final.completion_ids, device="cpu")
    gaps = [b - r for b, r in zip(final.behavior_logprobs, reference, strict=True)]
    assert 0 < np.mean([gap.sum() for gap in gaps]) < 12


def test_equal_inputs_give_equal_policies_bit_for_bit_and_equal_tables(rows, policy, tmp_path):
    first, second = train(rows, policy, tmp_path / "a"), train(rows, policy, tmp_path / "b")
    assert first.training_run_id == second.training_run_id
    assert first.policy_revision == second.policy_revision != policy_revision(policy)
    for name in ("model.safetensors", "critic/value_head.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first.train_use.equals(second.train_use)
    assert first.policy_logprobs.equals(second.policy_logprobs)
    drop = ["logged_at"]
    ours, theirs = (o.training_metrics.drop_columns(drop) for o in (first, second))
    assert ours.equals(theirs)


def test_seed_rewards_and_coefficient_make_another_run(rows, policy, tmp_path):
    base = train(rows, policy, tmp_path / "a")
    for place, other in enumerate(
        (
            train(rows, policy, tmp_path / "x0", seed=1),
            train(replace(rows, rewards=rows.rewards + 1), policy, tmp_path / "x1"),
            train(rows, policy, tmp_path / "x2", kl_coefficient=0.1),
        )
    ):
        assert other.training_run_id != base.training_run_id, place


def test_how_micro_batches_are_cut_does_not_matter(rows, policy, tmp_path):
    whole = train(
        rows, policy, tmp_path / "a", CONFIG.model_copy(update={"micro_batch_tokens": 4096})
    )
    cut = train(rows, policy, tmp_path / "b", CONFIG.model_copy(update={"micro_batch_tokens": 12}))
    for name in ("loss_policy", "loss_value", "grad_norm", "entropy"):
        # Adam's first steps are sign-like and blow rounding up, so the first step is compared.
        assert metric(whole, name)[0] == pytest.approx(metric(cut, name)[0], rel=1e-5, abs=1e-6)


def test_before_the_first_step_the_ratio_is_one(rows, policy, tmp_path):
    outcome = train(rows, policy, tmp_path / "a")
    assert metric(outcome, "ratio_error")[0] < 1e-5
    assert metric(outcome, "ratio_max")[0] == pytest.approx(1, abs=1e-4)
    assert metric(outcome, "k3")[0] < 1e-8
    assert metric(outcome, "kl_to_reference_stale") == [0.0]
    assert metric(outcome, "parity_mean_abs")[0] < 1e-5


def test_the_trained_folder_is_a_plain_model_and_carries_its_critic(rows, policy, tmp_path):
    first = train(rows, policy, tmp_path / "a")
    assert policy_revision(first.policy_dir) == first.policy_revision
    model = ActorCritic.load(first.policy_dir, device="cpu")
    assert model.has_trained_critic
    assert model.value_head.weight.abs().sum() > 0
    fresh = sample_rows(first.policy_dir, 32, luck, seed=5)
    second = train(fresh, first.policy_dir, tmp_path / "b", reference_dir=policy, round=1)
    # A critic that was carried over is not fitted to the new round before it is measured.
    again = ActorCritic.load(first.policy_dir, device="cpu")
    torch.testing.assert_close(again.value_head.weight, model.value_head.weight, atol=0, rtol=0)
    assert second.summary["explained_variance"] < 1
    assert not list(tmp_path.glob(".*"))


def test_a_new_critic_is_fitted_before_the_first_advantages(policy, tmp_path):
    rows = sample_rows(policy, 64, lambda completion: -float(len(completion)))
    config = CONFIG.model_copy(update={"critic_warmup_epochs": 40, "critic_learning_rate": 1e-2})
    cold = CONFIG.model_copy(update={"critic_warmup_epochs": 0})
    fitted = train(rows, policy, tmp_path / "a", config).summary["explained_variance"]
    assert fitted > 0.3
    assert train(rows, policy, tmp_path / "b", cold).summary["explained_variance"] == 0


def test_the_tables_say_what_trained_and_with_what(rows, policy, tmp_path):
    outcome = train(rows, policy, tmp_path / "a")
    for name in ("train_use", "training_metrics", "policy_logprobs"):
        table = getattr(outcome, name)
        assert conform(name, table).num_rows == table.num_rows > 0
    used = outcome.train_use.to_pylist()
    assert [row["rollout_id"] for row in used] == rows.rollout_ids
    assert all(row["is_used"] and row["epochs"] == 1 for row in used)
    np.testing.assert_allclose([row["importance_weight"] for row in used], 1, atol=1e-4)
    means = np.array([row["advantage_mean"] for row in used])
    lengths = np.array([len(ids) for ids in rows.completion_ids])
    assert (means * lengths).sum() / lengths.sum() == pytest.approx(0, abs=1e-5)
    keys = [(r["metric"], r["step"]) for r in outcome.training_metrics.to_pylist()]
    assert len(keys) == len(set(keys))
    assert "seconds_training" not in dict(keys)


def test_reference_and_proximal_logprobs_are_kept_once_per_policy(rows, policy, tmp_path):
    first = train(rows, policy, tmp_path / "a")
    stored = first.policy_logprobs.to_pylist()
    assert {(row["policy_revision"], row["role"]) for row in stored} == {
        (policy_revision(policy), "reference")
    }
    np.testing.assert_allclose(stored[0]["logprobs"], rows.behavior_logprobs[0], atol=1e-5)
    fresh = sample_rows(first.policy_dir, 16, luck)
    second = train(fresh, first.policy_dir, tmp_path / "b", reference_dir=policy, round=1)
    roles = {(row["policy_revision"], row["role"]) for row in second.policy_logprobs.to_pylist()}
    assert roles == {(first.policy_revision, "proximal"), (policy_revision(policy), "reference")}


def test_logprobs_of_another_policy_are_refused_before_anything_is_written(rows, policy, tmp_path):
    shifted = [row + np.float32(0.1) for row in rows.behavior_logprobs]
    with pytest.raises(ParityError, match=r"differ by 0\.1 nats .* rollouts \['r\d{4}'"):
        train(replace(rows, behavior_logprobs=shifted), policy, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_round_that_the_policy_has_left_is_dropped_and_says_so(policy, tmp_path):
    moved = TrainingConfig(learning_rate=1e-2, minibatch_size=8, max_kl_per_token=9.0, epochs=6)
    old = sample_rows(policy, 48, luck, seed=1)
    current = train(old, policy, tmp_path / "far", moved).policy_dir
    near = sample_rows(current, 32, luck, seed=2, round=1)
    outcome = train(joined(old, near), current, tmp_path / "b", reference_dir=policy, round=1)
    use = outcome.train_use.to_pylist()
    assert {row["source_round"] for row in use if row["is_used"]} == {1}
    reasons = {row["excluded_reason"] for row in use if row["source_round"] == 0}
    (size,) = metric(outcome, "ess_seq/round=0")
    assert size < 0.3
    assert reasons == {
        f"round 0 is stale: effective sample size {size:.2f} is below training.replay_min_ess 0.3"
    }
    assert metric(outcome, "ess_seq/round=1")[0] == pytest.approx(1, abs=1e-3)
    assert metric(outcome, "rows") == [32]
    stored = outcome.policy_logprobs["rollout_id"].unique().to_pylist()
    assert stored == near.rollout_ids


def test_a_window_trains_on_all_rounds_and_weighs_the_stale(policy, tmp_path):
    old = sample_rows(policy, 48, luck, seed=1)
    current = train(old, policy, tmp_path / "near").policy_dir
    fresh = sample_rows(current, 32, luck, seed=2, round=1)
    rows = joined(old, fresh)
    outcome = train(rows, current, tmp_path / "b", reference_dir=policy, round=1)
    use = outcome.train_use.to_pylist()
    assert sum(row["is_used"] for row in use) == 80
    weights = {n: [r["importance_weight"] for r in use if r["source_round"] == n] for n in (0, 1)}
    np.testing.assert_allclose(weights[1], 1, atol=1e-4)
    assert max(abs(w - 1) for w in weights[0]) > 0.01
    assert metric(outcome, "parity_rows") == [32]
    naive = CONFIG.model_copy(update={"importance": "none"})
    other = train(rows, current, tmp_path / "c", naive, reference_dir=policy, round=1)
    assert {r["importance_weight"] for r in other.train_use.to_pylist()} == {1.0}
    assert other.policy_revision != outcome.policy_revision


def test_leave_one_out_learns_without_a_critic(policy, tmp_path):
    config = CONFIG.model_copy(
        update={"advantage": "rloo", "learning_rate": 3e-3, "epochs": 2, "max_kl_per_token": 1.0}
    )
    rows = sample_rows(policy, 192, luck, group=4)
    outcome = train(rows, policy, tmp_path / "a", config)
    head = load_file(outcome.policy_dir / "critic/value_head.safetensors")
    assert float(head["weight"].abs().sum()) == 0
    after = sample_rows(outcome.policy_dir, 192, luck, group=4, seed=3)
    assert after.rewards.mean() > rows.rewards.mean() + 0.1


def test_kl_priced_in_the_loss_keeps_the_policy_nearer(policy, tmp_path):
    free = CONFIG.model_copy(update={"learning_rate": 3e-3, "epochs": 4, "max_kl_per_token": 9.0})
    priced = free.model_copy(update={"kl_loss_coefficient": 2.0})
    rows = sample_rows(policy, 96, luck)
    last = [
        train(rows, policy, tmp_path / name, config, kl_coefficient=0.0).summary["k3"]
        for name, config in (("a", free), ("b", priced))
    ]
    assert last[1] < 0.7 * last[0]


def test_an_infinite_reward_stops_the_run_before_anything_is_written(rows, policy, tmp_path):
    rewards = rows.rewards.copy()
    rewards[3] = np.inf
    with pytest.raises(DivergedError, match=r"not finite in the minibatch of rollouts \['r0003'\]"):
        train(replace(rows, rewards=rewards), policy, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_ratio_that_explodes_stops_the_run_and_names_the_row(rows, policy, tmp_path):
    wild = CONFIG.model_copy(
        update={"learning_rate": 3e-2, "epochs": 9, "max_kl_per_token": 99.0, "max_ratio": 3.0}
    )
    with pytest.raises(DivergedError, match=r"over training.max_ratio 3, in rollout r\d{4}: "):
        train(rows, policy, tmp_path / "out", wild)
    assert not list(tmp_path.iterdir())


def test_the_epochs_end_when_the_policy_has_gone_far_enough(rows, policy, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 5, "max_kl_per_token": 1e-6})
    told = []
    outcome = train(
        rows, policy, tmp_path / "a", config, progress=lambda *step: told.append(step[:2])
    )
    assert outcome.summary["epochs"] == 1
    assert {row["epochs"] for row in outcome.train_use.to_pylist()} == {1}
    assert told == [(1, 20), (2, 20), (3, 20), (4, 20), (4, 4)]


def test_what_a_killed_run_left_is_replaced(rows, policy, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"half")
    outcome = train(rows, policy, tmp_path / "a")
    assert load_file(outcome.policy_dir / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_last_minibatch_counts_even_when_it_is_small(policy, tmp_path):
    rows = sample_rows(policy, 9, luck)
    assert any(EOS in ids for ids in rows.completion_ids) or rows.finish_reasons[0] == "length"
    assert len(metric(train(rows, policy, tmp_path / "a"), "loss_policy")) == 2
