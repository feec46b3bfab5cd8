"""Sampling from an encoder-decoder: the model's own distribution, whatever its defaults say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForSeq2SeqLM

from pipeline.sampling.encoder_decoder import Seq2SeqSampler
from tests.training.tiny import EOS
from tests.training.tiny_t5 import START, tiny_t5

PROMPTS = [[5, 6, 7, EOS], [8, EOS], [9, 10, 11, 12, 13, 14, EOS], [5, EOS], [6, 6, EOS]]
SEEDS = [100, 200, 2**62, 400, 500]
# What a checkpoint may bring along; each would bend the distribution.
BENT = {
    "do_sample": True, "temperature": 0.3, "top_k": 2, "top_p": 0.5, "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1, "num_beams": 4, "suppress_tokens": [9], "forced_bos_token_id": 7,
    "forced_eos_token_id": EOS, "min_length": 30, "max_length": 3,
}  # fmt: skip


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request, tmp_path_factory):
    path = tiny_t5(tmp_path_factory.mktemp("t5") / "t5", is_tied=request.param == "tied")
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | BENT))
    return path


@pytest.fixture(scope="module")
def sampler(folder):
    return Seq2SeqSampler(str(folder), device="cpu", max_model_len=64)


@pytest.fixture(scope="module")
def sampled(sampler):
    seen: list[int] = []
    found = sampler.sample(PROMPTS, SEEDS, 40, 24, seen.append)
    assert sum(seen) == 200
    assert len(seen) == 4, "64 rows a batch"
    return found


def test_logprobs_are_the_models_own_and_end_with_the_end_token(sampled, folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    for prompt, outcomes in zip(PROMPTS, sampled, strict=True):
        for one in outcomes[:3]:
            decoder_ids = torch.tensor([[START, *one.token_ids[:-1]]])
            with torch.no_grad():
                out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids)
            logs = out.logits[0].log_softmax(-1)
            expected = logs.gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
            assert one.logprobs.dtype == np.float32
            np.testing.assert_allclose(one.logprobs, expected.numpy(), atol=1e-5)


def test_a_completion_ends_at_its_end_token_or_is_cut(sampled):
    rows = [one for outcomes in sampled for one in outcomes]
    stopped = [one for one in rows if one.finish_reason == "stop"]
    cut = [one for one in rows if one.finish_reason == "length"]
    assert len(stopped) + len(cut) == 200
    assert len(stopped) > 20
    assert len(cut) > 20
    for one in stopped:
        assert one.token_ids.index(EOS) == len(one.token_ids) - 1
    assert all(EOS not in one.token_ids and len(one.token_ids) == 24 for one in cut)
    assert all(len(one.token_ids) == len(one.logprobs) for one in rows)
    assert len({one.token_ids[0] for one in rows}) > 20, "the start token is no token of it"
    padded = [one for one in rows if START in one.token_ids[:-1]]
    assert padded, "padding is a token like any other before the end"


def test_a_row_depends_on_its_seed_not_on_its_batch(sampler, sampled):
    (alone,) = sampler.sample(PROMPTS[2:3], SEEDS[2:3], 2, 24, lambda _: None)
    for mine, together in zip(alone, sampled[2], strict=False):
        assert mine.token_ids == together.token_ids
        np.testing.assert_allclose(mine.logprobs, together.logprobs, atol=1e-5)
    assert alone[0].token_ids != alone[1].token_ids
    # Sample i is drawn with seed + i.
    (later,) = sampler.sample(PROMPTS[2:3], [SEEDS[2] + 1], 1, 24, lambda _: None)
    assert later[0].token_ids == alone[1].token_ids


def test_tokens_come_as_often_as_the_model_says(sampler, folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(input_ids=torch.tensor(PROMPTS[:1]), decoder_input_ids=torch.tensor([[START]]))
    expected = 4000 * out.logits[0, 0].double().softmax(-1).numpy()
    (rows,) = sampler.sample(PROMPTS[:1], [1], 4000, 1, lambda _: None)
    counts = np.bincount([one.token_ids[0] for one in rows], minlength=len(expected))
    # The chi-square test wants five of a kind: rare tokens count with the commonest.
    kinds = np.where(expected < 5, expected.argmax(), np.arange(len(expected)))
    kept = expected >= 5
    assert kept.sum() > 10
    observed = np.bincount(kinds, counts, len(expected))[kept]
    assert chisquare(observed, np.bincount(kinds, expected, len(expected))[kept]).pvalue > 1e-3


def test_its_length_limit_is_the_settings_for_positions_are_relative(folder):
    assert Seq2SeqSampler(str(folder), device="cpu").max_model_len == 2048
    assert Seq2SeqSampler(str(folder), device="cpu", max_model_len=5000).max_model_len == 5000


def test_no_prompts_are_no_completions(sampler):
    assert sampler.sample([], [], 4, 8, lambda _: None) == []


def test_a_model_that_names_no_start_is_refused(folder, tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.config.decoder_start_token_id = None
    model.generation_config = type(model.generation_config)(eos_token_id=EOS)
    model.save_pretrained(tmp_path / "startless")
    with pytest.raises(ValueError, match=r"startless: .* name no decoder_start_token_id"):
        Seq2SeqSampler(str(tmp_path / "startless"), device="cpu")
