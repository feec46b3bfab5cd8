"""Stage: prompts -> rollouts, by vLLM or transformers (T5), in the one Beam shape.

A prompt that is empty, too long or not text becomes a dead letter by itself; its neighbours are
sampled. Seeds: hash(config seed, round, prompt id) + sample index, so that a row depends on nothing
else: not on its batch, its shard, a kill or the number of workers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from labeling.engines.sampling import PromptFailed, Sampled, Sampler
from pipeline.config import ConfigError, RolloutsConfig, RunConfig, sha256_of
from pipeline.device import choose_device, choose_engine, is_encoder_decoder
from pipeline.policies import candidate_policy, policy_of_round
from pipeline.progress import Heartbeat
from pipeline.prompts import MalformedPrompt, check_messages, prompts_of_round
from pipeline.publishing import StageReport, publish_stage
from pipeline.stage import (
    Manifest,
    ShardResult,
    StageSpec,
    run_stage,
    split_rows,
    staging_folder,
)
from warehouse.catalog import read_table
from warehouse.ledger import Ledger
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

# Dialogues of models without a chat template: HH's own form. The encoder of a T5 reads the same,
# with the end token that its tokenizer puts behind every input.
_PLAIN_TURN = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\n"}


def generate(config: RunConfig, round_number: int, purpose: str) -> StageReport:
    """Samples and publishes the round's rollouts of one purpose (`train` or `holdout`)."""
    key = f"round={round_number}/{_key(purpose)}"
    prompts = plan_prompts(config, round_number, purpose)
    spec, manifests = sample_prompts(config, round_number, purpose, key, prompts)
    return publish_stage(config, spec, manifests, "rollouts", key=key, round_number=round_number)


def sample_prompts(
    config: RunConfig, round_number: int, purpose: str, key: str, prompts: pa.Table
) -> tuple[StageSpec, list[Manifest]]:
    """Samples these prompts into the staging folder of the work `key`; nothing is published."""
    # Training data comes from the promoted policy, hold-out numbers from the one to be judged.
    choose = policy_of_round if purpose == "train" else candidate_policy
    policy = choose(config, round_number)
    samples = config.rollouts.samples if purpose == "train" else config.rollouts.holdout_samples
    settings = SamplerSettings(
        engine=choose_engine(config.rollouts.engine, policy.folder),
        model=str(policy.folder),
        policy_revision=policy.revision,
        device=choose_device(config.device),
        samples=samples,
        seed=config.seed,
        round=round_number,
        rollouts=config.rollouts,
    )
    identity = sha256_of([key, _identity(settings), prompts["prompt_id"].to_pylist()])
    name = f"round={round_number}/{_key(purpose)}"
    spec = StageSpec(
        name=name,
        folder=staging_folder(config.warehouse, name, identity),
        config_sha256=identity,
        unit="completions",
        beam=config.beam,
    )
    shards = split_rows(prompts, config.beam.shard_rows)
    return spec, run_stage(spec, shards, functools.partial(RolloutWorker, settings))


def _key(purpose: str) -> str:
    return "train-rollouts" if purpose == "train" else "eval-rollouts"


def plan_prompts(config: RunConfig, round_number: int, purpose: str) -> pa.Table:
    """The prompts of this round, sorted by id: prompt_id, purpose, messages."""
    prompts = read_table(
        config.warehouse, "prompts", columns=["prompt_id", "purpose", "messages"]
    ).filter(pa.compute.equal(pa.compute.field("purpose"), purpose))
    ids = prompts["prompt_id"].to_pylist()
    if not ids:
        raise ConfigError(
            f"prompts: none has purpose {purpose}; change prompts.holdout or bring more prompts"
        )
    if purpose == "train":
        chosen = set(prompts_of_round(ids, round_number, config.rollouts.prompts, config.seed))
    else:
        chosen = _holdout_prompts(config, ids)
    keep = pa.array([i in chosen for i in ids])
    return prompts.filter(keep).sort_by("prompt_id")


def _holdout_prompts(config: RunConfig, ids: list[str]) -> set[str]:
    """The same every round: what round 0 was evaluated on, once it was."""
    key = "round=0/eval-rollouts"
    if Ledger(open_store(config.warehouse)).find(key):
        first = read_table(
            config.warehouse, "rollouts", rounds=[0], columns=["prompt_id"], keys=[key]
        )
        return set(first["prompt_id"].to_pylist())
    ordered = sorted(ids, key=lambda i: hashlib.sha256(f"{config.seed}/{i}".encode()).digest())
    return set(ordered[: config.rollouts.holdout_prompts])


@dataclass(frozen=True)
class SamplerSettings:
    """Everything a worker needs; picklable."""

    engine: str
    model: str
    policy_revision: str
    device: str
    samples: int
    seed: int
    round: int
    rollouts: RolloutsConfig


def _identity(settings: SamplerSettings) -> dict[str, Any]:
    """What changes a rollout: not where the model lies, nor how many prompts there are."""
    kept = ("engine", "policy_revision", "samples", "seed", "round")
    sampling = settings.rollouts.model_dump(include={"max_tokens", "max_model_len", "dtype"})
    return {name: getattr(settings, name) for name in kept} | sampling


def prompt_seed(seed: int, round_number: int, prompt_id: str) -> int:
    """Seed of a prompt's first sample; sample i adds i. Fits a signed 64-bit column."""
    digest = hashlib.sha256(f"{seed}/{round_number}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def load_sampler(settings: SamplerSettings) -> Sampler:
    """The engine of the configuration with the policy loaded."""
    from labeling.engines.seq2seq_sampler import Seq2SeqSampler
    from labeling.engines.transformers_sampler import TransformersSampler
    from labeling.engines.vllm_sampler import VllmSampler

    engine: Callable[..., Sampler] = VllmSampler
    if settings.engine == "transformers":
        is_seq2seq = is_encoder_decoder(settings.model)
        engine = Seq2SeqSampler if is_seq2seq else TransformersSampler
    return engine(
        settings.model,
        device=settings.device,
        dtype=settings.rollouts.dtype,
        max_model_len=settings.rollouts.max_model_len,
    )


class RolloutWorker:
    """Samples a shard of prompts with one loaded policy."""

    def __init__(self, settings: SamplerSettings) -> None:
        from transformers import AutoTokenizer

        self._settings = settings
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model)
        self._tokenizer_sha256 = _tokenizer_sha256(Path(settings.model))
        self._sampler = load_sampler(settings)

    def run(self, rows: pa.Table, progress: Heartbeat) -> ShardResult:
        """One row per completion; a refused prompt is one dead letter."""
        settings, limit = self._settings, self._settings.rollouts.max_tokens
        progress.update(0, total=rows.num_rows * settings.samples)
        ready: list[tuple[dict[str, Any], list[int]]] = []
        dead: list[dict[str, object]] = []
        for row in rows.to_pylist():
            try:
                ready.append((row, self._prompt_ids(row, limit)))
            except (MalformedPrompt, PromptFailed) as error:
                dead.append(self._dead_letter(row, error))
        seeds = [prompt_seed(settings.seed, settings.round, r["prompt_id"]) for r, _ in ready]
        sampled = self._sampler.sample(
            [ids for _, ids in ready], seeds, settings.samples, limit, progress.advance
        )
        rollouts: list[dict[str, object]] = []
        for (row, ids), seed, outcome in zip(ready, seeds, sampled, strict=True):
            if isinstance(outcome, PromptFailed):
                dead.append(self._dead_letter(row, outcome))
            else:
                rollouts += self._rollouts(row, ids, seed, outcome)
        progress.update(rows.num_rows * settings.samples)
        return ShardResult(
            rows=table_from_rows("rollouts", rollouts),
            dead=table_from_rows("dead_letters", dead),
            ok_rows=rows.num_rows - len(dead),
            tokens=sum(len(s.token_ids) for o in sampled if isinstance(o, list) for s in o),
        )

    def _prompt_ids(self, row: dict[str, Any], max_tokens: int) -> list[int]:
        ids = render_prompt(self._tokenizer, row["messages"])
        room = self._sampler.max_model_len - max_tokens
        if len(ids) > room:
            raise PromptFailed(
                f"too long: {len(ids)} tokens, and the model's {self._sampler.max_model_len} less "
                f"rollouts.max_tokens {max_tokens} leave {room}"
            )
        return ids

    def _rollouts(
        self, row: dict[str, Any], prompt_ids: list[int], seed: int, outcome: list[Sampled]
    ) -> list[dict[str, object]]:
        settings, sampler = self._settings, self._sampler
        texts = self._tokenizer.batch_decode(
            [s.token_ids for s in outcome], skip_special_tokens=True
        )
        constant = {
            "round": settings.round,
            "prompt_id": row["prompt_id"],
            "purpose": row["purpose"],
            "policy_revision": settings.policy_revision,
            "tokenizer_sha256": self._tokenizer_sha256,
            "prompt_ids": prompt_ids,
            "logprobs_mode": "raw_logprobs",
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "max_tokens": settings.rollouts.max_tokens,
            "sampling_json": "{}",
            "engine": sampler.name,
            "engine_version": sampler.version,
            "dtype": sampler.dtype,
            "generated_at": datetime.now(UTC),
        }
        return [
            constant
            | {
                "rollout_id": f"{settings.round}-{row['prompt_id']}-{i}",
                "sample_index": i,
                "completion_ids": sample.token_ids,
                "behavior_logprobs": sample.logprobs.astype(np.float32).tolist(),
                "completion": text,
                "completion_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "finish_reason": sample.finish_reason,
                "seed": seed + i,
            }
            for i, (sample, text) in enumerate(zip(outcome, texts, strict=True))
        ]

    def _dead_letter(self, row: dict[str, Any], error: Exception) -> dict[str, object]:
        return {
            "stage": "rollouts",
            "round": self._settings.round,
            "row_id": row["prompt_id"],
            "purpose": row["purpose"],
            "error_type": type(error).__name__,
            "message": str(error)[:500],
            "payload": row["messages"][:2000],
            "attempt": 1,
            "failed_at": datetime.now(UTC),
        }

    def close(self) -> None:
        """Frees the engine."""
        self._sampler.close()


def render_prompt(tokenizer: Any, messages_json: str) -> list[int]:
    """Token ids of a prompt, ready for the policy's turn. Raises MalformedPrompt, PromptFailed."""
    try:
        messages = check_messages(json.loads(messages_json))
    except ValueError as error:
        raise MalformedPrompt(f"not a prompt: {error}") from error
    if tokenizer.chat_template:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    else:
        text = "".join(_PLAIN_TURN[m["role"]] + m["content"] for m in messages)
        ids = tokenizer.encode(text + "\n\nAssistant:")
    if not ids:
        raise PromptFailed("empty: the prompt has no tokens")
    return [int(i) for i in ids]


def _tokenizer_sha256(folder: Path) -> str:
    """Digest of the files that decide how text becomes tokens."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json")
    present = [folder / n for n in names if (folder / n).exists()]
    return hashlib.sha256(b"".join(p.read_bytes() for p in present)).hexdigest()
