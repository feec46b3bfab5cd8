"""The `train-…` commands: rows from the warehouse, a trainer, a folder, and what became of it.

What they make is listed by no round: `evaluate-policy --policy FOLDER` measures it. Not here: the
trainers (training.preference.methods), the command line (commands/offline_training.py).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.policies.models import POLICIES, REWARD_MODELS, keep_model, models_folder
from pipeline.policies.policies import PolicyChoice, chosen_policy
from pipeline.runtime.machine import choose_device
from pipeline.runtime.publishing import code_version
from training.preference.methods import train_by
from training.preference.rows import ROWS, sample
from training.preference.selection import Selection
from training.preference.trained_folder import Trained, refuse_existing
from warehouse.handle import Warehouse

_SHOWN = ("rewards/accuracies", "rewards/margins", "accuracy", "mean_token_accuracy", "kl")
_LINES = 10


def train(
    config: RunConfig,
    kind: str,
    selection: Selection,
    *,
    policy: str | None,
    out: Path | None,
    say: Callable[[str], None],
) -> Trained:
    """Trains by one method (dpo, kto, sft, reward) on the selected rows; says what came of it.

    `policy`: revision or folder to start from; None: the base policy. `out` None: the warehouse's
    folder of policies or of reward models, under the revision. Raises ConfigError, TrainingError.
    """
    if out is not None:
        refuse_existing(out)
    keys = config.preference_training
    seed = config.seed if keys.seed is None else keys.seed
    start = chosen_policy(config, PolicyChoice(policy))
    if selection.as_of is None:
        head = Warehouse.open(config.warehouse, read_only=True).ledger.head()
        selection = dataclasses.replace(selection, as_of=head)
    rows = sample(ROWS[kind](config.warehouse, selection), keys.max_rows, seed)
    made_from = {"warehouse_version": str(selection.as_of), "code_version": code_version()}
    rows = rows.replace_schema_metadata(made_from)  # for training.json, see `roundhouse lineage`
    say(f"policy     {start.revision}")
    say(f"rows       {_counted(kind, rows)}")
    store = REWARD_MODELS if kind == "reward" else POLICIES  # a reward model is no policy
    fresh = models_folder(config.warehouse, store) / f".{kind}.{os.getpid()}.new"
    made = train_by(
        kind,
        rows,
        policy_dir=start.folder,
        out_dir=out or fresh,
        config=keys,
        seed=seed,
        device=choose_device(config.device),
        say=lambda step, steps, metrics: _say_step(say, step, steps, metrics),
    )
    folder = out or keep_model(config.warehouse, store, made.folder, made.revision)
    say(f"loss       {_ends(made.losses)}")
    for name in _SHOWN:
        if name in made.last:
            say(f"{name:<10} {made.first[name]:.3f} -> {made.last[name]:.3f}")
    say(f"{'model' if kind == 'reward' else 'policy':<10} {folder} ({made.revision})")
    return made


def _ends(losses: list[float]) -> str:
    """Where the loss began and ended; one step's rows are few, so a quarter of them speaks."""
    few = max(1, len(losses) // 4)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    return f"{first:.4f} -> {last:.4f} (the first and last {few} of {len(losses)} steps)"


def _counted(kind: str, rows: pa.Table) -> str:
    if kind != "kto":
        return str(rows.num_rows)
    desirable = sum(rows["label"].to_pylist())
    return f"{rows.num_rows} ({desirable} desirable, {rows.num_rows - desirable} undesirable)"


def _say_step(say: Callable[[str], None], step: int, steps: int, metrics: dict[str, float]) -> None:
    """About ten lines, however many steps there are."""
    if step == 1 or step == steps or step % max(1, steps // _LINES) == 0:
        say(f"step       {step}/{steps}  loss {metrics['loss']:.4f}")
