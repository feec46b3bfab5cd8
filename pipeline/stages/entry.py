"""The stages as functions that a stage process calls: thin, importing their room only when called.

So the driver stays light (no torch, no Beam), and `night.py` names stages without loading them.
Each takes the configuration and plain values and returns a StageReport.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from filelock import FileLock

from pipeline.config import RunConfig
from pipeline.runtime.publishing import StageReport
from pipeline.runtime.shards import staging_folder
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store


def alone(
    config: RunConfig, name: str, key: str | None, work: Callable[[], StageReport]
) -> StageReport:
    """Does `work` unless `key` is published, while no other run does the same on this machine.

    The commit is what guarantees that nothing is doubled; the lock, which the kernel frees when its
    holder is killed, only spares a second run from doing it all for nothing.
    """
    folder = staging_folder(config.warehouse, name, "lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}")):
        if key is not None and Ledger(open_store(config.warehouse)).find(key):
            return StageReport(key)
        return work()


def prepare(config: RunConfig) -> StageReport:
    """Builds the starters the configuration names, ingests prompts, checks base and labelers."""
    return alone(config, "prepare", None, lambda: _prepare(config))


def _prepare(config: RunConfig) -> StageReport:
    from pipeline.ingest.prompts import ingest
    from pipeline.policies.policies import base_policy, build_starters
    from pipeline.runtime.machine import choose_engine
    from pipeline.stages.labels import revision_of

    started = time.monotonic()
    open_store(config.warehouse)  # a place that cannot be a warehouse is refused first
    build_starters(config)
    choose_engine(config.rollouts.engine, base_policy(config).folder)
    for labeler in config.labelers:
        revision_of(config, labeler)
    loaded = time.monotonic() - started
    result = ingest(config.warehouse, config.prompts, config.policy.starter_seed)
    if result is None:
        return StageReport("prepare", load_seconds=loaded)
    notes = {"train": str(result.train), "hold-out": str(result.holdout)}
    if result.malformed:
        notes["malformed"] = f"{result.malformed} (left out: {'; '.join(result.examples)})"
    if result.forgotten:
        notes["forgotten"] = f"{result.forgotten} (stay out)"
    if result.duplicates:
        notes["duplicates"] = str(result.duplicates)
    count = result.train + result.holdout
    return StageReport("prepare", made=count, unit="prompts", load_seconds=loaded, notes=notes)


def generate(config: RunConfig, round_number: int, purpose: str) -> StageReport:
    """Prompts -> rollouts."""
    from pipeline.stages import rollouts
    from warehouse.keys import rollouts_key

    key = rollouts_key(round_number, purpose)
    return alone(config, key, key, lambda: rollouts.generate(config, round_number, purpose))


def label(config: RunConfig, round_number: int, purpose: str, labeler: str) -> StageReport:
    """Rollouts -> one labeler's labels."""
    from pipeline.stages import labels

    name = f"{labels.rollouts_key(round_number, purpose)}-{labeler}"
    return alone(config, name, None, lambda: labels.label(config, round_number, purpose, labeler))


def revise(config: RunConfig, round_number: int) -> StageReport:
    """The worst completions -> revised ones, and pairs that prefer them."""
    from pipeline.stages import revise as stage

    name = f"round={round_number}/revision"
    return alone(config, name, None, lambda: stage.revise(config, round_number))


def relabel_failed(
    config: RunConfig, round_number: int, purpose: str, labeler: str, statuses: tuple[str, ...]
) -> StageReport:
    """One labeler's failed labels -> new attempts."""
    from pipeline.stages import dead_rows as replay_stages
    from warehouse.keys import rollouts_key

    name = f"{rollouts_key(round_number, purpose)}-{labeler}"  # the lock of `label`
    return alone(
        config,
        name,
        None,
        lambda: replay_stages.relabel_failed(config, round_number, purpose, labeler, statuses),
    )


def resample(config: RunConfig, round_number: int, purpose: str) -> StageReport:
    """Refused prompts -> rollouts."""
    from pipeline.stages import dead_rows as replay_stages
    from warehouse.keys import rollouts_key

    key = rollouts_key(round_number, purpose)
    return alone(config, key, None, lambda: replay_stages.resample(config, round_number, purpose))


def accept_and_reward(
    config: RunConfig, round_number: int, facts: tuple[datetime, str]
) -> StageReport:
    """The gate, then labels -> rewards; a refused round gets its `rounds` row and no rewards."""
    key = f"round={round_number}/rewards"
    return alone(config, key, key, lambda: _accept_and_reward(config, round_number, facts))


def _accept_and_reward(
    config: RunConfig, round_number: int, facts: tuple[datetime, str]
) -> StageReport:
    from pipeline.stages import gate, rewards
    from pipeline.stages import outcome as verdict

    judged = gate.gate(config, round_number)
    if judged.is_accepted:
        return rewards.reward(config, round_number)
    label_set = judged.label_set_sha256
    return verdict.refuse(config, round_number, judged.reason, label_set, facts)


def train(config: RunConfig, round_number: int) -> StageReport:
    """Rewards -> the next policy."""
    from pipeline.stages import training as training_stage

    key = f"round={round_number}/training"
    return alone(config, key, key, lambda: training_stage.train(config, round_number))


def evaluate(config: RunConfig, round_number: int, facts: tuple[datetime, str]) -> StageReport:
    """Hold-out labels -> numbers, and the verdict on the night that made this policy."""
    from pipeline.stages import evaluation

    key = f"round={round_number}/evaluation"
    return alone(config, key, key, lambda: evaluation.evaluate(config, round_number, facts))
