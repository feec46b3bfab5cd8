"""Stage: prompts -> rollouts, by vLLM or transformers (T5), in the one Beam shape.

A prompt that is empty, too long or not text becomes a dead letter by itself; its neighbours are
sampled. Seeds: hash(config seed, round, prompt id) + sample index, so that a row depends on nothing
else: not on its batch, its shard, a kill or the number of workers.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.policies.policies import candidate_policy, policy_of_round
from pipeline.runtime.publishing import StageReport, publish_stage
from pipeline.runtime.shards import Manifest, StageSpec, run_stage, split_rows, stage_spec
from pipeline.stages.rollout_worker import RolloutWorker, SamplerSettings
from pipeline.stages.rounds import rollout_values
from warehouse.files import sha256_of, text_sha256
from warehouse.handle import Warehouse
from warehouse.keys import rollouts_key


def generate(
    config: RunConfig, warehouse: Warehouse, key: str, round_number: int, purpose: str
) -> StageReport:
    """Samples and publishes the round's rollouts of one purpose (`train` or `holdout`)."""
    prompts = plan_prompts(config, warehouse, round_number, purpose)
    spec, manifests = sample_prompts(config, warehouse, key, round_number, purpose, prompts)
    return publish_stage(config, spec, manifests, "rollouts", key=key, round_number=round_number)


def sample_prompts(
    config: RunConfig,
    warehouse: Warehouse,
    key: str,
    round_number: int,
    purpose: str,
    prompts: pa.Table,
) -> tuple[StageSpec, list[Manifest]]:
    """Samples these prompts into a staging folder for the commit `key`; nothing is published."""
    # Training data comes from the promoted policy, hold-out numbers from the one to be judged.
    choose = policy_of_round if purpose == "train" else candidate_policy
    policy = choose(config, warehouse, round_number)
    samples = config.rollouts.samples if purpose == "train" else config.rollouts.holdout_samples
    settings = SamplerSettings.of(config, policy, samples, round_number)
    identity = sha256_of([key, _identity(settings), prompts["prompt_id"].to_pylist()])
    name = rollouts_key(round_number, purpose)
    spec = stage_spec(config, name, identity, "completions")
    shards = split_rows(prompts, config.beam.shard_rows)
    return spec, run_stage(spec, shards, functools.partial(RolloutWorker, settings))


def plan_prompts(
    config: RunConfig, warehouse: Warehouse, round_number: int, purpose: str
) -> pa.Table:
    """The prompts of this round, sorted by id: prompt_id, purpose, messages."""
    prompts = warehouse.read_table("prompts", columns=["prompt_id", "purpose", "messages"])
    prompts = prompts.filter(pa.compute.field("purpose") == purpose)
    ids = prompts["prompt_id"].to_pylist()
    if not ids:
        raise ConfigError(
            f"prompts: none has purpose {purpose}; change prompts.holdout or bring more prompts"
        )
    if purpose == "train":
        chosen = set(prompts_of_round(ids, round_number, config.rollouts.prompts, config.seed))
    else:
        chosen = _holdout_prompts(config, warehouse, ids)
    keep = pa.array([i in chosen for i in ids])
    return prompts.filter(keep).sort_by("prompt_id")


def _holdout_prompts(config: RunConfig, warehouse: Warehouse, ids: list[str]) -> set[str]:
    """The same every round: what round 0 was evaluated on, once it was."""
    if warehouse.is_published(rollouts_key(0, "holdout")):
        return rollout_values(warehouse, 0, "holdout", "prompt_id")
    ordered = sorted(ids, key=lambda i: text_sha256(f"{config.seed}/{i}"))
    return set(ordered[: config.rollouts.holdout_prompts])


def _identity(settings: SamplerSettings) -> dict[str, Any]:
    """What changes a rollout: not where the model lies, nor how many prompts there are."""
    kept = ("engine", "policy_revision", "samples", "seed", "round")
    sampling = settings.rollouts.model_dump(include={"max_tokens", "max_model_len", "dtype"})
    return {name: getattr(settings, name) for name in kept} | sampling


def prompts_of_round(ids: list[str], round_number: int, count: int, seed: int) -> list[str]:
    """The train prompts of a round: a seeded permutation, without replacement until used up."""
    count = min(count, len(ids))
    cycle, position = divmod(round_number, max(1, len(ids) // count))
    order = sorted(ids)
    random.Random(f"{seed}/{cycle}").shuffle(order)
    return order[position * count : (position + 1) * count]
