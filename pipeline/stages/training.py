"""Stage: a stored, scored round -> the next policy, in a process of its own. Not here: PPO."""

from __future__ import annotations

import functools
import math
import shutil
import time
from typing import Any

from pipeline.config import RunConfig
from pipeline.policies.models import FILES, POLICIES, files_record, keep_model
from pipeline.policies.policies import base_policy, policy_of_round
from pipeline.runtime.machine import choose_device
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.publishing import StageReport, publish_once, work_meta
from pipeline.runtime.shards import staging_folder
from pipeline.stages.rewards import recipe_of
from pipeline.stages.rounds import kl_coefficient
from training.ppo.dataset import trainable_rows
from training.ppo.processes import train_in_processes
from training.ppo.trainer import train_ppo
from warehouse.files import sha256_of
from warehouse.handle import Warehouse

_SHOWN = ("epochs", "reward_mean", "clip_fraction", "explained_variance", "parity_mean_abs")
_WATCHED = ("loss_policy", "k3", "clip_fraction")


def _tell(heartbeat: Heartbeat, done: int, total: int, fields: dict[str, float]) -> None:
    heartbeat.update(done, total, **{k: v for k, v in fields.items() if k in _WATCHED})


def train(config: RunConfig, warehouse: Warehouse, key: str, round_number: int) -> StageReport:
    """Trains policy r + 1 on round r and publishes it."""
    started = time.monotonic()
    policy, reference = policy_of_round(config, warehouse, round_number), base_policy(config)
    recipe = recipe_of(config, warehouse)
    coefficient = kl_coefficient(config, warehouse, round_number)
    # Every table at one version, which the commit names: a policy leads back to these files.
    version = warehouse.ledger.head()
    rows = trainable_rows(
        config.warehouse,
        round_number,
        recipe_sha256=recipe,
        config=config.training,
        policy_revision=policy.revision,
        reference_revision=reference.revision,
        as_of=version,
    )
    adapter = config.policy.adapter.model_dump(mode="json") if config.policy.adapter else None
    identity = sha256_of(
        [key, recipe, policy.revision, config.training.model_dump(mode="json"), adapter]
    )
    folder = staging_folder(config.warehouse, key, identity)
    folder.mkdir(parents=True, exist_ok=True)
    steps = config.training.epochs * math.ceil(
        len(rows.rollout_ids) / config.training.minibatch_size
    )
    heartbeat = Heartbeat(folder, "training", steps, "steps")
    loaded = time.monotonic()
    arguments: dict[str, Any] = {
        "policy_dir": policy.folder,
        "reference_dir": reference.folder,
        "out_dir": folder / "policy",
        "work_dir": folder / "points",
        "adapter": config.policy.adapter,
        "config": config.training,
        "kl_coefficient": coefficient,
        "round": round_number,
        "seed": config.seed,
        "device": choose_device(config.device),
        "progress": functools.partial(_tell, heartbeat),
    }
    if config.training.processes > 1:
        outcome = train_in_processes(rows, config.training.processes, **arguments)
    else:
        outcome = train_ppo(rows, **arguments)
    work_seconds = time.monotonic() - loaded
    home = keep_model(config.warehouse, POLICIES, outcome.policy_dir, outcome.policy_revision)
    report = StageReport(
        key,
        made=len(rows.rollout_ids),
        unit="rollouts",
        tokens=int(outcome.summary["tokens"] * outcome.summary["epochs"]),
        load_seconds=loaded - started,
        work_seconds=work_seconds,
        notes={k: f"{outcome.summary[k]:.3g}" for k in _SHOWN if k in outcome.summary},
    )
    publish_once(
        config,
        key,
        {
            "train_use": outcome.train_use,
            "training_metrics": outcome.training_metrics,
            "policy_logprobs": outcome.policy_logprobs,
        },
        round_number=round_number,
        config_sha256=identity,
        meta={
            "policy_revision": outcome.policy_revision,
            FILES: files_record(home),
            "training_run_id": outcome.training_run_id,
            "recipe_sha256": recipe,
            "policy_revision_in": policy.revision,
            "reference_revision": reference.revision,
            "warehouse_version": str(version),
            "kl_coefficient": repr(coefficient),
            "seed": str(config.seed),
        }
        | work_meta(report),
    )
    shutil.rmtree(folder, ignore_errors=True)
    return report
