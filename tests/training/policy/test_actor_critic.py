"""Log-probs and values of stored completions, and a policy's way to disk and back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from tests.training.tiny import EOS, tiny_policy
from training.policy.actor_critic import ActorCritic
from training.policy.batches import token_batches
from training.policy.loading import UnsupportedPolicy
from training.policy.sequences import sequence_logprobs
from training.revision import policy_revision

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6]]
COMPLETIONS = [[20, 21, EOS], [22, EOS, 23, EOS, 24], [25], [26, 27]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


def score(model, rows, budget=4096):
    """Log-probs and values per row, trimmed to the completion."""
    found = {}
    for batch in token_batches(
        PROMPTS, COMPLETIONS, rows, micro_batch_tokens=budget, device=model.device
    ):
        scores = model.logprobs_and_values(batch)
        for place, row in enumerate(batch.rows.tolist()):
            size = len(COMPLETIONS[row])
            found[row] = scores.logprobs[place, :size], scores.values[place, :size]
            assert scores.logprobs[place, size:].abs().sum() == 0
    return found


def test_logprobs_are_those_of_the_plain_model_one_row_at_a_time(folder):
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = sequence_logprobs(folder, PROMPTS, COMPLETIONS, device="cpu")
    for prompt, completion, ours in zip(PROMPTS, COMPLETIONS, found, strict=True):
        with torch.no_grad():
            logs = plain(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        expected = [logs[len(prompt) - 1 + t, token].item() for t, token in enumerate(completion)]
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_neither_batch_nor_padding_changes_a_row(folder):
    model = ActorCritic.load(folder, device="cpu")
    torch.nn.init.normal_(model.value_head.weight)
    together, alone = score(model, range(4)), score(model, range(4), budget=1)
    for row in range(4):
        for ours, theirs in zip(together[row], alone[row], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_value_does_not_see_the_token_it_stands_at(folder):
    model = ActorCritic.load(folder, device="cpu")
    torch.nn.init.normal_(model.value_head.weight)
    pair = [[20, 21, 22], [20, 30, 22]]
    (batch,) = token_batches([[5], [5]], pair, [0, 1], micro_batch_tokens=99, device=model.device)
    first, second = model.logprobs_and_values(batch).values.detach()
    torch.testing.assert_close(first[:2], second[:2])
    assert first[2] != second[2]


def test_an_end_token_that_is_also_the_padding_is_scored_and_trained(folder):
    model = ActorCritic.load(folder, device="cpu")
    (batch,) = token_batches(PROMPTS, COMPLETIONS, [1], micro_batch_tokens=99, device=model.device)
    scores = model.logprobs_and_values(batch)
    assert batch.mask.sum() == 5
    gradient = torch.autograd.grad(scores.logprobs[0, 4], list(model.policy.parameters())[:1])[0]
    assert gradient.abs().sum() > 0
    assert scores.logprobs[0, [1, 3]].min() < 0


def test_an_empty_completion_has_no_logprobs(folder):
    first, second = sequence_logprobs(folder, [[5], [6]], [[], [7]], device="cpu")
    assert (len(first), len(second)) == (0, 1)


def test_a_saved_policy_is_a_plain_model_with_the_same_logprobs_and_revision(folder, tmp_path):
    model = ActorCritic.load(folder, device="cpu")
    torch.nn.init.normal_(model.value_head.weight)
    model.save(tmp_path / "saved", folder)
    assert policy_revision(tmp_path / "saved") == policy_revision(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    plain = ActorCritic(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"))
    ours = sequence_logprobs(model, PROMPTS, COMPLETIONS)
    for mine, theirs in zip(ours, sequence_logprobs(plain, PROMPTS, COMPLETIONS), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    again = ActorCritic.load(tmp_path / "saved", device="cpu")
    assert again.has_trained_critic
    torch.testing.assert_close(again.value_head.weight, model.value_head.weight, atol=0, rtol=0)
    assert [p.name for p in (tmp_path / "saved").glob("*.safetensors")] == ["model.safetensors"]


def test_a_new_critic_claims_nothing(folder):
    model = ActorCritic.load(folder, device="cpu")
    assert not model.has_trained_critic
    assert all(values.abs().sum() == 0 for _, values in score(model, range(4)).values())


def test_the_revision_follows_weights_and_tokenizer_but_not_files(folder, tmp_path):
    before = policy_revision(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shutil.copytree(folder, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert policy_revision(tmp_path / "sharded") == before
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    shutil.copytree(folder, tmp_path / "moved")
    model.save_pretrained(tmp_path / "moved")
    assert policy_revision(tmp_path / "moved") != before
    shutil.copytree(folder, tmp_path / "reworded")
    (tmp_path / "reworded" / "chat_template.jinja").write_text("other")
    assert policy_revision(tmp_path / "reworded") != before


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        policy_revision(tmp_path)


def test_a_model_that_caps_its_logits_is_refused(tmp_path):
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
        num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=0.01,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["final_logit_softcapping"] == 0.01
    with pytest.raises(UnsupportedPolicy, match="changes its logits"):
        ActorCritic.load(tmp_path, device="cpu")


def test_batches_keep_to_the_budget_and_to_little_padding():
    random = np.random.default_rng(0)
    prompts = [[1] * n for n in random.integers(1, 60, 300)]
    completions = [[1] * n for n in random.integers(1, 60, 300)]
    batches = token_batches(
        prompts, completions, range(300), micro_batch_tokens=2000, device=torch.device("cpu")
    )
    assert sorted(row for b in batches for row in b.rows.tolist()) == list(range(300))
    assert max(b.input_ids.numel() for b in batches) <= 2000
    padded = sum(b.input_ids.numel() for b in batches)
    assert padded < 1.25 * sum(int(b.attention_mask.sum()) for b in batches)
