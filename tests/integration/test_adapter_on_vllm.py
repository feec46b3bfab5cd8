"""A policy with an adapter: merged where vLLM samples it, apart where it trains, yet the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.runtime.progress import Heartbeat
from pipeline.stages.rollout_worker import RolloutWorker
from tests.pipeline.stages.test_rollouts import prompt, settings
from tests.training.ppo.test_trainer import CONFIG, train
from training.policy.actor_critic import ActorCritic
from training.policy.adapters import AdapterConfig
from training.policy.sequences import sequence_logprobs
from training.ppo.dataset import TrainingSet
from training.revision import policy_revision
from training.starters.starters import starter_path

ADAPTER = AdapterConfig(r=8)


def sampled(model, folder, **more) -> TrainingSet:
    """Rollouts of vLLM, rewarded by their length."""
    worker = RolloutWorker(settings(model, "vllm", **more))
    rows = pa.Table.from_pylist([prompt(number) for number in range(16)])
    found = worker.run(rows, Heartbeat(folder, "0", rows.num_rows, "c")).rows
    worker.close()
    columns = {
        name: [np.array(x, kind) for x in found[name].to_pylist()]
        for name, kind in (
            ("prompt_ids", np.int32),
            ("completion_ids", np.int32),
            ("behavior_logprobs", np.float32),
        )
    }
    lengths = [len(ids) for ids in columns["completion_ids"]]
    return TrainingSet(
        rollout_ids=found["rollout_id"].to_pylist(),
        source_rounds=[0] * found.num_rows,
        prompt_names=found["prompt_id"].to_pylist(),
        reference_logprobs=[None] * found.num_rows,
        rewards=np.array(lengths, np.float32) * np.float32(0.1),
        finish_reasons=found["finish_reason"].to_pylist(),
        is_fresh=np.ones(found.num_rows, bool),
        excluded=pa.table(
            {
                "rollout_id": pa.array([], pa.string()),
                "source_round": pa.array([], pa.int32()),
                "reward": pa.array([], pa.float32()),
                "excluded_reason": pa.array([], pa.string()),
            }
        ),
        is_float32=True,
        **columns,
    )


def test_vllm_samples_what_the_adapter_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    base = starter_path("starter-policy", budget="tiny")
    config = CONFIG.model_copy(
        update={"learning_rate": 3e-3, "micro_batch_tokens": 2048, "max_kl_per_token": 9.0}
    )
    first = train(sampled(base, tmp_path), base, tmp_path / "p", config, adapter=ADAPTER).policy_dir
    assert policy_revision(first) != policy_revision(base)
    rows = sampled(first, tmp_path)
    apart = ActorCritic.load(first, device="cpu", adapter=ADAPTER, base=base)
    ours = sequence_logprobs(apart, rows.prompt_ids, rows.completion_ids)
    gaps = np.concatenate(ours) - np.concatenate(rows.behavior_logprobs)
    assert np.abs(gaps).max() < 1e-4
    base_logs = sequence_logprobs(base, rows.prompt_ids, rows.completion_ids, device="cpu")
    moved = np.concatenate(base_logs) - np.concatenate(rows.behavior_logprobs)
    assert np.abs(moved).mean() > 100 * np.abs(gaps).mean()
    second = train(rows, first, tmp_path / "q", config, adapter=ADAPTER, reference_dir=base)
    assert second.summary["parity_mean_abs"] < 1e-4
