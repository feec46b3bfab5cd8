"""The stages as functions that a stage process calls: thin, importing their room only when called.

So the driver stays light (no torch, no Beam), and `night.py` names stages without loading them.
Each takes the configuration and plain values and returns a StageReport.
"""

from __future__ import annotations

import time
from datetime import datetime

from pipeline.config import RunConfig
from pipeline.publishing import StageReport


def prepare(config: RunConfig) -> StageReport:
    """Builds the starters the configuration names, ingests prompts, checks base and labelers."""
    from pipeline.labels import revision_of
    from pipeline.policies import base_policy
    from pipeline.prompts import ingest
    from pipeline.starters import build_starters

    started = time.monotonic()
    build_starters(config)
    base_policy(config)
    for labeler in config.labelers:
        revision_of(config, labeler)
    loaded = time.monotonic() - started
    result = ingest(config.warehouse, config.prompts, config.policy.starter_seed)
    if result is None:
        return StageReport("prepare", load_seconds=loaded)
    notes = {"train": str(result.train), "hold-out": str(result.holdout)}
    if result.malformed:
        notes["malformed"] = f"{result.malformed} (left out: {'; '.join(result.examples)})"
    if result.duplicates:
        notes["duplicates"] = str(result.duplicates)
    count = result.train + result.holdout
    return StageReport("prepare", rows=count, load_seconds=loaded, notes=notes)


def generate(config: RunConfig, round_number: int, purpose: str) -> StageReport:
    """Prompts -> rollouts."""
    from pipeline import rollouts

    return rollouts.generate(config, round_number, purpose)


def label(config: RunConfig, round_number: int, purpose: str, labeler: str) -> StageReport:
    """Rollouts -> one labeler's labels."""
    from pipeline import labels

    return labels.label(config, round_number, purpose, labeler)


def accept_and_reward(
    config: RunConfig, round_number: int, facts: tuple[datetime, str]
) -> StageReport:
    """The gate, then labels -> rewards; a refused round gets its `rounds` row and no rewards."""
    from pipeline import rewards, verdict

    judged = rewards.gate(config, round_number)
    if judged.is_accepted:
        return rewards.reward(config, round_number)
    label_set = judged.label_set_sha256
    return verdict.refuse(config, round_number, judged.reason, label_set, facts)


def train(config: RunConfig, round_number: int) -> StageReport:
    """Rewards -> the next policy."""
    from pipeline import training_stage

    return training_stage.train(config, round_number)


def evaluate(config: RunConfig, round_number: int, facts: tuple[datetime, str]) -> StageReport:
    """Hold-out labels -> numbers, and the verdict on the night that made this policy."""
    from pipeline import evaluation

    return evaluation.evaluate(config, round_number, facts)
