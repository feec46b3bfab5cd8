"""Rollouts of a T5: rendered without a chat template, sampled by transformers, fit to train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from pipeline.config import RolloutsConfig
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.runtime.machine import choose_engine, is_encoder_decoder
from pipeline.runtime.progress import Heartbeat
from pipeline.stages import entry as stages
from pipeline.stages.rollout_worker import RolloutWorker, SamplerSettings, render_prompt
from tests.training.tiny import EOS, tiny_policy
from tests.training.tiny_t5 import tiny_t5
from training.policy.sequences import sequence_logprobs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("t5") / "policy", is_tied=False)


def prompt(number: int, text: str) -> dict[str, object]:
    messages = json.dumps([{"role": "user", "content": text}])
    return {"prompt_id": f"p{number}", "purpose": "train", "messages": messages}


def test_the_encoder_reads_hh_turns_and_the_tokenizers_end_token(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = [("user", "w9 w8"), ("assistant", "w7"), ("user", "w6")]
    messages = json.dumps([{"role": role, "content": text} for role, text in turns])
    ids = render_prompt(tokenizer, messages)
    assert tokenizer.decode(ids) == "Human: w9 w8 Assistant: w7 Human: w6 Assistant: </s>"
    assert ids[-1] == EOS
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}w30"
    assert tokenizer.decode(render_prompt(tokenizer, messages)) == "w9 w8 w7 w6 w30"


@pytest.mark.parametrize(("dtype", "mean_gap"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_stored_logprobs_are_the_trainers(model, tmp_path, dtype, mean_gap):
    limits = {"max_tokens": 12, "max_model_len": 32, "dtype": dtype}
    settings = SamplerSettings(
        engine="transformers", model=str(model), policy_revision="p0", device="cpu", samples=4,
        seed=7, round=3, rollouts=RolloutsConfig.model_validate(limits),
    )  # fmt: skip
    texts = ["w9 w8", "w7", " ".join(["w6"] * 30), "w11 w12 w13 w14 w15"]
    worker = RolloutWorker(settings)
    result = worker.run(
        pa.Table.from_pylist([prompt(i, text) for i, text in enumerate(texts)]),
        Heartbeat(tmp_path, "0", 4, "completions"),
    )
    worker.close()
    rows = result.rows.to_pylist()
    assert len(rows) == 12
    assert result.dead["row_id"].to_pylist() == ["p2"]
    assert "too long: 33 tokens" in result.dead["message"][0].as_py()
    assert {(row["engine"], row["dtype"], row["logprobs_mode"]) for row in rows} == {
        ("transformers", dtype, "raw_logprobs")
    }
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    ours = np.concatenate(
        sequence_logprobs(
            model,
            [row["prompt_ids"] for row in rows],
            [row["completion_ids"] for row in rows],
            device="cpu",
            dtype=dtype,
        )
    )
    stored = np.concatenate([row["behavior_logprobs"] for row in rows])
    assert np.abs(ours - stored).mean() < mean_gap


def test_vllm_is_refused_before_anything_is_sampled(model, tmp_path):
    assert is_encoder_decoder(model)
    assert choose_engine("transformers", model) == "transformers"
    words = r"vLLM serves no encoder-decoder model \(T5\).*set rollouts.engine: transformers"
    with pytest.raises(ConfigError, match=words):
        choose_engine("vllm", model)
    decoder_only = tiny_policy(tmp_path / "llama")
    assert choose_engine("vllm", decoder_only) == choose_engine("vllm")
    config = load_config("demo", [f"warehouse={tmp_path / 'w'}", f"policy.model={model}",
                                  "policy.starter_budget=tiny"])  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        stages.prepare(config, "prepare")
