"""LoRA: only the adapter trains, the base is the reference, and engines load what was trained."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.training.ppo.test_trainer import CONFIG, luck, metric, train
from tests.training.tiny import sample_rows, tiny_policy
from training.policy.actor_critic import ActorCritic
from training.policy.adapters import AdapterConfig, AdapterError
from training.policy.loading import UnsupportedPolicy
from training.policy.sequences import sequence_logprobs

ADAPTER = AdapterConfig(r=4, alpha=32)
QUICK = CONFIG.model_copy(update={"learning_rate": 1e-2, "epochs": 2, "max_kl_per_token": 9.0})


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def first(policy, tmp_path_factory):
    rows = sample_rows(policy, 64, luck)
    return train(rows, policy, tmp_path_factory.mktemp("first") / "p", QUICK, adapter=ADAPTER)


def test_a_new_adapter_changes_nothing(policy):
    rows = sample_rows(policy, 8, luck)
    model = ActorCritic.load(policy, device="cpu", adapter=ADAPTER, base=policy)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("value_head") for name in trained)
    assert any("lora_A" in name for name in trained)
    ours = sequence_logprobs(model, rows.prompt_ids, rows.completion_ids)
    for found, stored in zip(ours, rows.behavior_logprobs, strict=True):
        np.testing.assert_allclose(found, stored, atol=1e-5)


def test_what_engines_load_is_what_was_trained(policy, first):
    """Merged weights beside base and adapter: the same policy, to rounding."""
    rows = sample_rows(first.policy_dir, 32, luck, seed=3)  # samples the merged folder
    model = ActorCritic.load(first.policy_dir, device="cpu", adapter=ADAPTER, base=policy)
    ours = sequence_logprobs(model, rows.prompt_ids, rows.completion_ids)
    for found, stored in zip(ours, rows.behavior_logprobs, strict=True):
        np.testing.assert_allclose(found, stored, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(first.policy_dir)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    before, after = (load_file(p / "model.safetensors") for p in (policy, first.policy_dir))
    assert before.keys() == after.keys()
    torch.testing.assert_close(
        after["model.embed_tokens.weight"], before["model.embed_tokens.weight"], atol=0, rtol=0
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])


def test_the_next_round_goes_on_from_the_adapter_against_the_base(policy, first, tmp_path):
    rows = sample_rows(first.policy_dir, 64, luck, seed=3, round=1)
    second = train(
        rows, first.policy_dir, tmp_path / "p", QUICK, adapter=ADAPTER, reference_dir=policy,
        round=1,
    )  # fmt: skip
    assert metric(second, "parity_mean_abs")[0] < 1e-5
    stored = {
        (row["role"], row["rollout_id"]): row["logprobs"]
        for row in second.policy_logprobs.to_pylist()
    }
    reference = sequence_logprobs(policy, rows.prompt_ids, rows.completion_ids, device="cpu")
    for rollout_id, expected in zip(rows.rollout_ids, reference, strict=True):
        np.testing.assert_allclose(stored["reference", rollout_id], expected, atol=1e-5)
    after = sample_rows(second.policy_dir, 256, luck, seed=4)
    assert after.rewards.mean() > sample_rows(policy, 256, luck, seed=4).rewards.mean()
    again = load_file(second.policy_dir / "adapter/adapter_model.safetensors")
    assert any(
        not torch.equal(again[name], value)
        for name, value in load_file(first.policy_dir / "adapter/adapter_model.safetensors").items()
    )


def test_an_adapter_of_another_rank_is_refused(policy, first):
    other = AdapterConfig(r=8, alpha=32)
    with pytest.raises(AdapterError, match=r"policy.adapter.r: the configuration says 8, .* has 4"):
        ActorCritic.load(first.policy_dir, device="cpu", adapter=other, base=policy)


def test_an_adapter_of_other_layers_is_refused(policy, first):
    other = AdapterConfig(r=4, alpha=ADAPTER.alpha, target_modules=("q_proj",))
    with pytest.raises(AdapterError, match=r"modules: .* \['q_proj'\], .* has \['down_proj', '"):
        ActorCritic.load(first.policy_dir, device="cpu", adapter=other, base=policy)
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    same = AdapterConfig(r=4, alpha=ADAPTER.alpha, target_modules=every)
    ActorCritic.load(first.policy_dir, device="cpu", adapter=same, base=policy)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_named_in_one_line_with_what_to_do(policy, first, tmp_path, name):
    damaged = tmp_path / "p"
    shutil.copytree(first.policy_dir, damaged)
    (damaged / "adapter" / name).write_bytes(b"{")
    with pytest.raises(
        AdapterError, match=r"adapter: the adapter .* is damaged .*restore"
    ) as found:
        ActorCritic.load(damaged, device="cpu", adapter=ADAPTER, base=policy)
    assert "\n" not in str(found.value)
    assert found.value.exit_code == 2


def test_an_adapter_of_another_base_does_not_fit(first, tmp_path):
    config = AutoConfig.from_pretrained(first.policy_dir)
    config.hidden_size, config.intermediate_size = 2 * config.hidden_size, 7
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(AdapterError, match="does not fit its base"):
        ActorCritic.load(first.policy_dir, device="cpu", adapter=ADAPTER, base=tmp_path / "base")


def test_a_policy_that_was_trained_whole_gets_no_adapter(policy, tmp_path):
    whole = train(sample_rows(policy, 16, luck), policy, tmp_path / "p").policy_dir
    with pytest.raises(AdapterError, match="was trained without an adapter"):
        ActorCritic.load(whole, device="cpu", adapter=ADAPTER, base=policy)


def test_layers_that_are_not_there_are_named(policy):
    wrong = AdapterConfig(target_modules=("query",))
    with pytest.raises(AdapterError, match=r"target_modules \('query',\): "):
        ActorCritic.load(policy, device="cpu", adapter=wrong, base=policy)


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_activations_computed_again_and_chunks_change_no_number(policy, tmp_path, adapter):
    rows = sample_rows(policy, 32, luck)
    slim = CONFIG.model_copy(update={"gradient_checkpointing": True, "logits_in_memory": 400})
    plain = train(rows, policy, tmp_path / "a", CONFIG, adapter=adapter)
    saved = train(rows, policy, tmp_path / "b", slim, adapter=adapter)
    for name in ("loss_policy", "loss_value", "grad_norm", "entropy"):
        # The first step: later ones carry Adam's blown-up rounding.
        assert metric(saved, name)[0] == pytest.approx(metric(plain, name)[0], rel=1e-5, abs=1e-6)


def test_dropout_is_refused_where_it_would_be_switched_on(policy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(policy)
    model.config.attention_dropout = 0.1
    model.save_pretrained(tmp_path / "p")
    wet = ActorCritic.load(tmp_path / "p", device="cpu")
    with pytest.raises(UnsupportedPolicy, match="has attention_dropout: set it to 0"):
        wet.spend_less_memory()
