"""Rollouts through the stage against plain `LLM.generate` on the same prompts and settings.

Engine start is left out on both sides: one engine serves both, in turn, several times.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from labeling.engines.vllm_sampler import VllmSampler
from pipeline.config import load_config
from pipeline.prompts import ingest
from pipeline.rollouts import (
    RolloutWorker,
    SamplerSettings,
    plan_prompts,
    prompt_seed,
    render_prompt,
)
from pipeline.stage import StageSpec, run_stage, split_rows
from training.starter import starter_path

REPEATS = 5


class _Shared(RolloutWorker):
    """A rollout worker around an engine that is already loaded."""

    def __init__(self, settings: SamplerSettings, sampler: VllmSampler) -> None:
        from transformers import AutoTokenizer

        self._settings, self._sampler = settings, sampler
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model)
        self._tokenizer_sha256 = ""

    def close(self) -> None:
        """The engine outlives the worker here."""


def run(say) -> None:
    """Prints completions/s of both and their ratio."""
    config = load_config("demo")
    folder = starter_path("starter-policy")
    sampler = VllmSampler(str(folder), device="cpu", max_model_len=256)
    with tempfile.TemporaryDirectory() as here:
        root = str(Path(here) / "warehouse")
        ingest(root, config.prompts, 0)
        config = config.model_copy(update={"warehouse": root})
        prompts = plan_prompts(config, 0, "train")
        settings = SamplerSettings("vllm", str(folder), "bench", "cpu", 4, 0, 0, config.rollouts)
        global _WORKER
        _WORKER = _Shared(settings, sampler)
        plain, stage = [], []
        for repeat in range(REPEATS + 1):
            plain.append(_plain(sampler, prompts, settings, _WORKER._tokenizer))
            stage.append(_stage(prompts, settings, Path(here) / f"staging-{repeat}", config.beam))
        # The first of each warms caches up.
        ratios = [p / s for p, s in zip(plain[1:], stage[1:], strict=True)]
        count = prompts.num_rows * settings.samples
        say(
            f"rollouts: plain LLM.generate {count / statistics.median(plain[1:]):.0f}/s, "
            f"through the stage {count / statistics.median(stage[1:]):.0f}/s, "
            f"ratio {statistics.median(ratios):.2f} (wanted >= 0.90)"
        )


def _plain(sampler: VllmSampler, prompts: pa.Table, settings: SamplerSettings, tokenizer) -> float:
    from vllm import SamplingParams, TokensPrompt

    started = time.perf_counter()
    requests = [
        TokensPrompt(prompt_token_ids=render_prompt(tokenizer, m))
        for m in prompts["messages"].to_pylist()
    ]
    parameters = [
        SamplingParams(
            n=settings.samples,
            seed=prompt_seed(0, 0, prompt_id),
            temperature=1.0,
            max_tokens=settings.rollouts.max_tokens,
            logprobs=0,
        )
        for prompt_id in prompts["prompt_id"].to_pylist()
    ]
    sampler._llm.generate(requests, parameters, use_tqdm=False)
    return time.perf_counter() - started


def _stage(prompts: pa.Table, settings: SamplerSettings, folder: Path, beam) -> float:
    spec = StageSpec("bench", folder, "bench", "completions", beam)
    started = time.perf_counter()
    run_stage(spec, split_rows(prompts, beam.shard_rows), _worker)
    return time.perf_counter() - started


def _worker() -> _Shared:
    return _WORKER
