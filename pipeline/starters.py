"""Builds the starter models that a configuration names, once, with progress. Not here: how."""

from __future__ import annotations

import shutil

from pipeline.config import RunConfig
from pipeline.policies import resolve
from pipeline.progress import Heartbeat
from pipeline.stage import staging_folder
from training.starter import STARTERS


def build_starters(config: RunConfig) -> None:
    """Makes sure that every starter the configuration names is in the cache."""
    models = [config.policy.model, *(_model_of(labeler) for labeler in config.labelers)]
    wanted = [m for m in models if m == "starter" or m in STARTERS]
    if not wanted:
        return
    folder = staging_folder(config.warehouse, "prepare", "starters")
    folder.mkdir(parents=True, exist_ok=True)
    heartbeats: dict[str, Heartbeat] = {}

    def show(what: str, done: int, total: int) -> None:
        name = what.replace(" ", "-").replace("/", "-")
        beat = heartbeats.setdefault(name, Heartbeat(folder, name, total, "steps"))
        beat.update(done, total)

    for model in wanted:  # the first that is missing builds them all
        resolve(config, model, show)
    shutil.rmtree(folder, ignore_errors=True)


def _model_of(labeler: object) -> str:
    engine = getattr(labeler, "engine", labeler)
    return str(getattr(engine, "model", ""))
