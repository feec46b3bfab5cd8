"""A T5 as policy: its log-probs, values and training are those of the model itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, UMT5Config, UMT5ForConditionalGeneration

from tests.training.tiny import EOS, NONE_EXCLUDED, VOCABULARY
from tests.training.tiny_t5 import START, tiny_t5
from training.policy.actor_critic import ActorCritic
from training.policy.batches import token_batches
from training.policy.encoder_decoder import split_batch
from training.policy.loading import UnsupportedPolicy
from training.policy.sequences import sequence_logprobs
from training.ppo.config import TrainingConfig
from training.ppo.dataset import TrainingSet
from training.ppo.guards import ParityError
from training.ppo.trainer import train_ppo
from training.revision import policy_revision

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6]]
COMPLETIONS = [[20, 21, EOS], [22, EOS, START, EOS, 24], [25], [START, 27]]


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("t5") / request.param
    return tiny_t5(path, is_tied=request.param == "tied")


def plain(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@torch.no_grad()
def plain_logprobs(model, prompt, completion):
    decoder_ids = torch.tensor([[START, *completion[:-1]]])
    out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids)
    logs = out.logits[0].log_softmax(-1)
    return logs.gather(1, torch.tensor(completion)[:, None])[:, 0].numpy()


def test_the_two_shapes_differ_as_t5_and_flan_t5_do(tmp_path):
    tied = plain(tiny_t5(tmp_path / "tied", is_tied=True))
    untied = plain(tiny_t5(tmp_path / "untied", is_tied=False))
    assert tied.lm_head.weight is tied.shared.weight
    assert not torch.equal(untied.lm_head.weight, untied.shared.weight)
    assert (tied.config.scale_decoder_outputs, untied.config.scale_decoder_outputs) == (True, False)


def test_logprobs_are_those_of_the_plain_model_one_row_at_a_time(folder):
    model = plain(folder)
    found = sequence_logprobs(folder, PROMPTS, COMPLETIONS, device="cpu")
    for prompt, completion, ours in zip(PROMPTS, COMPLETIONS, found, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, plain_logprobs(model, prompt, completion), atol=1e-5)


def test_scores_of_one_pass_are_those_logprobs_and_bfloat16_is_near(folder):
    expected = sequence_logprobs(folder, PROMPTS, COMPLETIONS, device="cpu")
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.1)):
        model = ActorCritic.load(folder, device="cpu", dtype=dtype)
        (batch,) = batches(model)
        scores = model.logprobs_and_values(batch)
        assert scores.states.shape == (sum(map(len, COMPLETIONS)), 32)
        for place, row in enumerate(batch.rows.tolist()):
            ours = scores.logprobs[place, : len(expected[row])].detach().numpy()
            np.testing.assert_allclose(ours, expected[row], atol=tolerance)


def batches(model, rows=range(4), budget=4096):
    return token_batches(PROMPTS, COMPLETIONS, rows, micro_batch_tokens=budget, device=model.device)


def test_the_decoder_reads_the_completion_one_token_late():
    (batch,) = token_batches(
        PROMPTS, COMPLETIONS, [0, 1, 2], micro_batch_tokens=99, device=torch.device("cpu")
    )
    inputs = split_batch(batch, START)
    by_row = {row: place for place, row in enumerate(batch.rows.tolist())}
    for row, place in by_row.items():
        prompt, completion = PROMPTS[row], COMPLETIONS[row]
        assert inputs.encoder_mask[place].sum() == len(prompt)
        assert inputs.encoder_ids[place, : len(prompt)].tolist() == prompt
        read = inputs.decoder_ids[place, : len(completion)].tolist()
        assert read == [START, *completion[:-1]]
    assert inputs.encoder_ids.shape == (3, 6)
    assert inputs.decoder_ids.shape == (3, 5)


def test_neither_batch_nor_padding_changes_a_row(folder):
    model = ActorCritic.load(folder, device="cpu")
    torch.nn.init.normal_(model.value_head.weight)
    together, alone = {}, {}
    for found, budget in ((together, 4096), (alone, 1)):
        for batch in batches(model, budget=budget):
            scores = model.logprobs_and_values(batch)
            for place, row in enumerate(batch.rows.tolist()):
                size = len(COMPLETIONS[row])
                found[row] = scores.logprobs[place, :size], scores.values[place, :size]
                assert scores.logprobs[place, size:].abs().sum() == 0
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


def test_a_saved_policy_is_a_plain_model_with_the_same_logprobs_and_revision(folder, tmp_path):
    model = ActorCritic.load(folder, device="cpu")
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.1)  # no copy of the folder's
    model.save(tmp_path / "saved", folder)
    assert policy_revision(tmp_path / "saved") != policy_revision(folder)
    again = ActorCritic.load(tmp_path / "saved", device="cpu")
    again.save(tmp_path / "again", tmp_path / "saved")
    assert policy_revision(tmp_path / "again") == policy_revision(tmp_path / "saved")
    about = json.loads((tmp_path / "again/config.json").read_text())
    assert about["tie_word_embeddings"] is (folder.name == "tied")
    ours = sequence_logprobs(model, PROMPTS, COMPLETIONS)
    other = plain(tmp_path / "again")
    for prompt, completion, mine in zip(PROMPTS, COMPLETIONS, ours, strict=True):
        np.testing.assert_allclose(mine, plain_logprobs(other, prompt, completion), atol=1e-5)


def test_a_model_that_scales_by_another_rule_is_refused(tmp_path):
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=START, tie_word_embeddings=True,
    )  # fmt: skip
    UMT5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedPolicy, match="changes its logits"):
        ActorCritic.load(tmp_path, device="cpu")


def test_a_model_without_a_start_token_is_named(folder, tmp_path):
    model = plain(folder)
    model.config.decoder_start_token_id = None
    model.generation_config.decoder_start_token_id = None
    model.save_pretrained(tmp_path / "startless")
    about = json.loads((tmp_path / "startless/config.json").read_text())
    assert about.get("decoder_start_token_id") is None
    with pytest.raises(ValueError, match="startless: no decoder_start_token_id in config"):
        ActorCritic.load(tmp_path / "startless", device="cpu")


def rows_of(folder, count=32):
    """Random completions whose stored log-probs are the model's; 7 is worth something."""
    random = np.random.default_rng(0)
    prompts = [random.integers(5, VOCABULARY, random.integers(1, 6)) for _ in range(count)]
    completions = [random.integers(3, VOCABULARY, random.integers(1, 7)) for _ in range(count)]
    completions = [np.append(ids, EOS).astype(np.int32) for ids in completions]
    prompts = [ids.astype(np.int32) for ids in prompts]
    return TrainingSet(
        rollout_ids=[f"r{i:04d}" for i in range(count)],
        source_rounds=[0] * count,
        prompt_names=[f"p{i:04d}" for i in range(count)],
        prompt_ids=prompts,
        completion_ids=completions,
        behavior_logprobs=sequence_logprobs(folder, prompts, completions, device="cpu"),
        reference_logprobs=[None] * count,
        rewards=np.array([(ids == 7).sum() for ids in completions], np.float32),
        finish_reasons=["stop"] * count,
        is_fresh=np.ones(count, bool),
        excluded=NONE_EXCLUDED,
        is_float32=True,
    )


def train(rows, folder, out):
    config = TrainingConfig(
        epochs=1, minibatch_size=8, micro_batch_tokens=64, warmup_steps=0, learning_rate=1e-3
    )
    return train_ppo(
        rows, policy_dir=folder, reference_dir=folder, out_dir=out, config=config,
        kl_coefficient=0.05, round=0, seed=0, device="cpu",
    )  # fmt: skip


def test_ppo_begins_at_ratio_one_and_ends_with_another_policy(folder, tmp_path):
    outcome = train(rows_of(folder), folder, tmp_path / "next")
    assert outcome.summary["parity_mean_abs"] < 1e-5
    first = [
        row["value"] for row in outcome.training_metrics.to_pylist()
        if row["metric"] == "ratio_error" and row["step"] == 1
    ]  # fmt: skip
    assert len(first) == 1
    assert first[0] < 1e-5, "dropout is off although the configuration has it"
    assert outcome.policy_revision != policy_revision(folder)
    moved = {
        name: (ours - theirs).abs().max() > 0
        for (name, ours), theirs in zip(
            plain(outcome.policy_dir).named_parameters(), plain(folder).parameters(), strict=True
        )
    }
    assert moved["shared.weight"]
    assert any(moved[name] for name in moved if name.startswith("encoder.block"))
    assert any("EncDecAttention" in name for name in moved if moved[name])


def test_rows_of_another_policy_are_refused(folder, tmp_path):
    rows = rows_of(folder)
    hotter = [row / 0.7 for row in rows.behavior_logprobs]
    with pytest.raises(ParityError, match="nothing was trained"):
        train(replace(rows, behavior_logprobs=hotter), folder, tmp_path / "next")
    assert not (tmp_path / "next").exists()
