"""Rollouts through the stage against plain `LLM.generate` on the same prompts and settings.

Engine start is left out on both sides: one engine serves all, in turn. Two baselines, both from
prompts that are token ids already: `generate` as one would write it (text, ids and log-probs out),
and with the stage's own sampling parameters (no text). The stage includes what they do not: Beam,
input and output Parquet, chat template, decoding, rows, heartbeats, manifest.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.ingest.prompts import ingest
from pipeline.runtime.machine import choose_device
from pipeline.runtime.shards import StageSpec, run_stage, split_rows
from pipeline.stages.rollout_worker import (
    RolloutWorker,
    SamplerSettings,
    prompt_seed,
    render_prompt,
)
from pipeline.stages.rollouts import plan_prompts
from tests.benchmarks.figures import build_starters_once, print_ratio, seconds_in_turn
from training.starters.starters import starter_path
from warehouse.handle import Warehouse

PROMPTS, REPEATS = 1024, 3
WARM_UP_PROMPTS = 64


@functools.cache
def lasting_worker(settings: SamplerSettings) -> RolloutWorker:
    """One worker, whoever asks: Beam gets this function, pickled by its name."""
    return RolloutWorker(settings)


def main() -> None:
    """Prints completions/s of the stage and of both baselines."""
    build_starters_once()
    with tempfile.TemporaryDirectory() as here:
        config = load_config("demo", [f"warehouse={here}/warehouse", f"rollouts.prompts={PROMPTS}"])
        ingest(config.warehouse, config.prompts, config.policy.starter_seed)
        prompts = plan_prompts(config, Warehouse.open(config.warehouse), 0, "train")
        settings = _settings(config)
        requests = _requests(prompts, settings)
        ways = {
            "stage": lambda n: _stage(_part(prompts, n), settings, Path(here) / f"run-{n}", config),
            "text": lambda n: _plain(_part(requests, n), settings),
            "ids": lambda n: _plain(
                _part(requests, n), settings, flat_logprobs=True, detokenize=False
            ),
        }
        spent = seconds_in_turn(ways, REPEATS)
    count = prompts.num_rows * settings.samples
    note = f"{prompts.num_rows:,} prompts x {settings.samples}, median of {REPEATS}"
    print_ratio("rollouts", "completions", count, spent["stage"], spent["text"], 0.9,
                against="plain LLM.generate", note=note)  # fmt: skip
    print_ratio("rollouts, no text wanted", "completions", count, spent["stage"], spent["ids"], 0.9,
                against="LLM.generate without detokenizing", note=note)  # fmt: skip


def _settings(config: RunConfig) -> SamplerSettings:
    return SamplerSettings(
        engine="vllm",
        model=str(starter_path("starter-policy")),
        policy_revision="benchmark",
        device=choose_device(config.device),
        samples=config.rollouts.samples,
        seed=config.seed,
        round=0,
        rollouts=config.rollouts,
    )


def _part(prompts: Any, repeat: int) -> Any:
    return prompts[: None if repeat else WARM_UP_PROMPTS]


def _stage(prompts: pa.Table, settings: SamplerSettings, folder: Path, config: RunConfig) -> object:
    spec = StageSpec("rollouts", folder, "benchmark", "completions", config.beam)
    make_worker = functools.partial(lasting_worker, settings)
    return run_stage(spec, split_rows(prompts, config.beam.shard_rows), make_worker)


def _plain(requests: list[tuple[list[int], int]], settings: SamplerSettings, **more: Any) -> object:
    from vllm import SamplingParams, TokensPrompt

    parameters = [
        SamplingParams(
            n=settings.samples,
            seed=seed,
            temperature=1.0,
            max_tokens=settings.rollouts.max_tokens,
            logprobs=0,
            **more,
        )
        for _, seed in requests
    ]
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in requests]
    # The very engine of the stage, which its worker keeps to itself.
    return lasting_worker(settings)._sampler._llm.generate(prompts, parameters, use_tqdm=False)


def _requests(prompts: pa.Table, settings: SamplerSettings) -> list[tuple[list[int], int]]:
    """Token ids and seed of each prompt."""
    tokenizer = lasting_worker(settings)._tokenizer
    return [
        (
            render_prompt(tokenizer, row["messages"]),
            prompt_seed(settings.seed, settings.round, row["prompt_id"]),
        )
        for row in prompts.to_pylist()
    ]
