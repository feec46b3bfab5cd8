"""Sampling: seeds, dead letters, log-probs. The worker runs with a real engine on tiny weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import RolloutsConfig
from pipeline.ingest.messages import MalformedPrompt
from pipeline.runtime.progress import Heartbeat, read_progress
from pipeline.stages.rollout_worker import (
    RolloutWorker,
    SamplerSettings,
    prompt_seed,
    render_prompt,
)
from training.policy.sequences import sequence_logprobs
from training.starters.starters import starter_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUNDHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return starter_path("starter-policy", budget="tiny")


def settings(model: Path, engine: str, **more: object) -> SamplerSettings:
    rollouts = RolloutsConfig.model_validate({"max_tokens": 12, "max_model_len": 64})
    return SamplerSettings(
        engine=engine, model=str(model), policy_revision="p0", device="cpu", samples=2, seed=7,
        round=3, rollouts=rollouts, **more,
    )  # fmt: skip


def prompt(number: int, content: object = None) -> dict[str, object]:
    text = f"How do I plant tree {number}?" if content is None else content
    messages = text if isinstance(text, str) and text.startswith("[") else json.dumps(
        [{"role": "user", "content": text}]
    )  # fmt: skip
    return {"prompt_id": f"p{number}", "purpose": "train", "messages": messages}


POISON = [
    prompt(90, ""),
    prompt(91, "long " * 500),
    prompt(92, 7),
    {"prompt_id": "p93", "purpose": "train", "messages": "no json"},
    prompt(94, "[]"),
]


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def sampled(request, model, tmp_path_factory):
    """(worker, its result) on good prompts among poisoned ones."""
    worker = RolloutWorker(settings(model, request.param))
    rows = [prompt(0), *POISON, *(prompt(i) for i in range(1, 6))]
    folder = tmp_path_factory.mktemp("staging")
    result = worker.run(pa.Table.from_pylist(rows), Heartbeat(folder, "0", len(rows), "c"))
    progress = read_progress(folder)
    assert progress is not None
    assert progress.done == progress.total == 22
    yield worker, result
    worker.close()


def test_a_poisoned_prompt_costs_only_itself(sampled):
    _, result = sampled
    assert result.ok_rows == 6
    assert result.rows.num_rows == 12
    messages = dict(
        zip(result.dead["row_id"].to_pylist(), result.dead["message"].to_pylist(), strict=True)
    )
    assert messages.keys() == {"p90", "p91", "p92", "p93", "p94"}
    assert "empty" in messages["p90"]
    assert "too long" in messages["p91"]
    assert "without text" in messages["p92"]


def test_stored_logprobs_are_the_policys_own(sampled, model):
    _, result = sampled
    ours = sequence_logprobs(
        model, result.rows["prompt_ids"].to_pylist(), result.rows["completion_ids"].to_pylist()
    )
    for mine, stored in zip(ours, result.rows["behavior_logprobs"].to_pylist(), strict=True):
        np.testing.assert_allclose(mine, stored, atol=1e-4)


def test_a_row_depends_on_its_seed_not_on_its_neighbours(sampled, tmp_path):
    worker, result = sampled
    alone = worker.run(pa.Table.from_pylist([prompt(4)]), Heartbeat(tmp_path, "0", 1, "c")).rows
    together = {r["rollout_id"]: r for r in result.rows.to_pylist()}
    for row in alone.to_pylist():
        assert row["completion_ids"] == together[row["rollout_id"]]["completion_ids"]
        assert row["seed"] == together[row["rollout_id"]]["seed"]
    assert alone["rollout_id"].to_pylist() == ["3-p4-0", "3-p4-1"]
    first, second = alone["completion_ids"].to_pylist()
    assert first != second


def test_seeds_follow_from_run_round_prompt():
    assert prompt_seed(0, 0, "a") == prompt_seed(0, 0, "a")
    others = {prompt_seed(0, 0, "a"), prompt_seed(1, 0, "a"), prompt_seed(0, 1, "a")}
    assert len(others) == 3
    assert all(0 <= s < 2**62 for s in others)


def test_a_model_without_a_chat_template_reads_hh_turns(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    ids = render_prompt(tokenizer, json.dumps([{"role": "user", "content": "Hi there"}]))
    assert tokenizer.decode(ids).strip() == "Human: Hi there\n\nAssistant:"
    with pytest.raises(MalformedPrompt):
        render_prompt(tokenizer, "{}")
