"""The stages as functions that a stage process calls: thin, importing their room only when called.

So the driver stays light (no torch, no Beam), and `night.py` names stages without loading them.
Each takes the configuration, the name of its work and plain values, and returns a StageReport; each
opens the warehouse for itself, in its process. The name is the key of the commit that the work ends
in; where that depends on a model's hash, the part that is known before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVarTuple

from filelock import FileLock

from pipeline.config import RunConfig
from pipeline.runtime.publishing import StageReport
from pipeline.runtime.shards import staging_folder
from warehouse.handle import Warehouse

Rest = TypeVarTuple("Rest")


def alone(
    config: RunConfig,
    name: str,
    work: Callable[[RunConfig, Warehouse, str, *Rest], StageReport],
    *arguments: *Rest,
    again: bool = False,
) -> StageReport:
    """Does `work` unless its name is published, while no other run does it on this machine.

    `again`: work that amends what is published.

    The commit is what guarantees that nothing is doubled; the lock, which the kernel frees when its
    holder is killed, only spares a second run from doing it all for nothing.
    """
    warehouse = Warehouse.open(config.warehouse)  # a place that cannot be one is refused first
    folder = staging_folder(config.warehouse, name, "lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}")):
        if not again and warehouse.is_published(name):
            return StageReport(name)
        return work(config, warehouse, name, *arguments)


def prepare(config: RunConfig, name: str) -> StageReport:
    """Builds the starters the configuration names, ingests prompts, checks base and labelers."""
    return alone(config, name, _prepare)


def _prepare(config: RunConfig, _: Warehouse, name: str) -> StageReport:
    from pipeline.ingest.prompts import ingest
    from pipeline.policies.policies import base_policy, build_starters
    from pipeline.runtime.machine import choose_engine
    from pipeline.stages.labels import revision_of

    started = time.monotonic()
    build_starters(config)
    choose_engine(config.rollouts.engine, base_policy(config).folder)
    for labeler in config.labelers:
        revision_of(config, labeler)
    loaded = time.monotonic() - started
    result = ingest(config.warehouse, config.prompts, config.policy.starter_seed)
    if result is None:
        return StageReport(name, load_seconds=loaded)
    notes = {"train": str(result.train), "hold-out": str(result.holdout)}
    if result.malformed:
        notes["malformed"] = f"{result.malformed} (left out: {'; '.join(result.examples)})"
    if result.forgotten:
        notes["forgotten"] = f"{result.forgotten} (stay out)"
    if result.duplicates:
        notes["duplicates"] = str(result.duplicates)
    count = result.train + result.holdout
    return StageReport(name, made=count, unit="prompts", load_seconds=loaded, notes=notes)


def generate(config: RunConfig, key: str, round_number: int, purpose: str) -> StageReport:
    """Prompts -> rollouts."""
    from pipeline.stages import rollouts

    return alone(config, key, rollouts.generate, round_number, purpose)


def label(
    config: RunConfig, name: str, round_number: int, purpose: str, labeler: str
) -> StageReport:
    """Rollouts -> one labeler's labels."""
    from pipeline.stages import labels

    return alone(config, name, labels.label, round_number, purpose, labeler)


def revise(config: RunConfig, name: str, round_number: int) -> StageReport:
    """The worst completions -> revised ones, and pairs that prefer them."""
    from pipeline.stages import revise as stage

    return alone(config, name, stage.revise, round_number)


def relabel_failed(
    config: RunConfig,
    name: str,
    round_number: int,
    purpose: str,
    labeler: str,
    statuses: tuple[str, ...],
) -> StageReport:
    """One labeler's failed labels -> new attempts, under the lock of `label`."""
    from pipeline.stages import dead_rows

    return alone(config, name, dead_rows.relabel_failed, round_number, purpose, labeler, statuses)


def resample(config: RunConfig, key: str, round_number: int, purpose: str) -> StageReport:
    """Refused prompts -> rollouts, beside those that `key` has published."""
    from pipeline.stages import dead_rows

    return alone(config, key, dead_rows.resample, round_number, purpose, again=True)


def accept_and_reward(
    config: RunConfig, key: str, round_number: int, facts: tuple[datetime, str]
) -> StageReport:
    """The gate, then labels -> rewards; a refused round gets its `rounds` row and no rewards."""
    return alone(config, key, _accept_and_reward, round_number, facts)


def _accept_and_reward(
    config: RunConfig,
    warehouse: Warehouse,
    key: str,
    round_number: int,
    facts: tuple[datetime, str],
) -> StageReport:
    from pipeline.stages import gate, outcome, rewards

    judged = gate.gate(config, warehouse, round_number)
    if judged.is_accepted:
        return rewards.reward(config, warehouse, key, round_number)
    label_set = judged.label_set_sha256
    return outcome.refuse(config, warehouse, round_number, judged.reason, label_set, facts)


def train(config: RunConfig, key: str, round_number: int) -> StageReport:
    """Rewards -> the next policy."""
    from pipeline.stages import training

    return alone(config, key, training.train, round_number)


def evaluate(
    config: RunConfig, key: str, round_number: int, facts: tuple[datetime, str]
) -> StageReport:
    """Hold-out labels -> numbers, and the verdict on the night that made this policy."""
    from pipeline.stages import evaluation

    return alone(config, key, evaluation.evaluate, round_number, facts)
