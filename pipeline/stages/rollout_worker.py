"""The work of the rollouts stage: prompts as token ids, completions as rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import RolloutsConfig, RunConfig
from pipeline.ingest.files import dead_letter
from pipeline.ingest.messages import MalformedPrompt, check_messages
from pipeline.policies.policies import Policy
from pipeline.runtime.machine import choose_device, choose_engine, is_encoder_decoder
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.shards import ShardResult
from pipeline.sampling.sampler import PromptFailed, Sampled, Sampler
from warehouse.files import text_sha256
from warehouse.schemas import table_from_rows

# Dialogues of models without a chat template: HH's own form. The encoder of a T5 reads the same,
# with the end token that its tokenizer puts behind every input.
_PLAIN_TURN = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\n"}


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

    @classmethod
    def of(cls, config: RunConfig, policy: Policy, samples: int, number: int) -> SamplerSettings:
        """How a policy samples in this round, under this configuration. Raises ConfigError."""
        return cls(
            engine=choose_engine(config.rollouts.engine, policy.folder),
            model=str(policy.folder),
            policy_revision=policy.revision,
            device=choose_device(config.device),
            samples=samples,
            seed=config.seed,
            round=number,
            rollouts=config.rollouts,
        )


def prompt_seed(seed: int, round_number: int, prompt_id: str) -> int:
    """Seed of a prompt's first sample; sample i adds i. Fits a signed 64-bit column."""
    digest = text_sha256(f"{seed}/{round_number}/{prompt_id}")
    return int(digest[:16], 16) >> 2


def load_sampler(settings: SamplerSettings) -> Sampler:
    """The engine of the configuration with the policy loaded."""
    from pipeline.sampling.decoder import TransformersSampler
    from pipeline.sampling.encoder_decoder import Seq2SeqSampler
    from pipeline.sampling.vllm import VllmSampler

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
                "completion_sha256": text_sha256(text),
                "finish_reason": sample.finish_reason,
                "seed": seed + i,
            }
            for i, (sample, text) in enumerate(zip(outcome, texts, strict=True))
        ]

    def _dead_letter(self, row: dict[str, Any], error: Exception) -> dict[str, object]:
        letter = dead_letter("rollouts", row["prompt_id"], row["messages"].encode(), error)
        return letter | {"round": self._settings.round, "purpose": row["purpose"]}

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
