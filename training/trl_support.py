"""All that is ours around TRL's trainers: stored tokens in, a Hugging Face folder out.

The only module that touches TRL's private methods (1.16). DPO and KTO prepare a data set by
rendering and encoding its texts anew, and reference log-probs by a pass of a reference model;
`StoredDPOTrainer` and `StoredKTOTrainer` take both from the rows as they are. Nothing is ever cut
off: `max_length` is None everywhere. Not here: what one method needs (dpo.py, kto.py, sft.py,
reward_model.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoConfig, PrinterCallback, TrainerCallback

from training.actor_critic import resolve_device, resolve_dtype
from training.dataset import TrainingError
from training.preference_config import PreferenceConfig
from training.revision import TOKENIZER_FILES, policy_revision

RECORD = "training.json"  # beside the weights: how they were made
# How far a policy that is the reference may be from the stored log-probs, nats per completion on
# average: rounding of the precision that both were computed in.
_PARITY = {torch.float32: 0.01, torch.bfloat16: 0.5}

Say = Callable[[int, int, dict[str, float]], None]


class _StoredTokens:
    """The rows are what the trainer would have made of them: ids, and reference log-probs."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class StoredDPOTrainer(_StoredTokens, trl.DPOTrainer):
    """DPO on `prompt_ids`, `chosen_ids`, `rejected_ids`, `ref_chosen_logps`, `ref_rejected_logps`.

    Needs precompute_ref_log_probs=True, so that TRL loads no reference model.
    """


class StoredKTOTrainer(_StoredTokens, trl.KTOTrainer):
    """KTO on `prompt_ids`, `completion_ids`, `KL_completion_ids`, `ref_logps`, `ref_KL_logps`."""


@dataclass(frozen=True)
class Trained:
    """A trained model on disk. `losses` are one per optimizer step, before it; `last` are TRL's
    metrics of the last step, `first` of the first.
    """

    folder: Path
    revision: str
    rows: int
    losses: list[float]
    first: dict[str, float]
    last: dict[str, float]


def trainer_arguments(
    config: PreferenceConfig, *, seed: int, device: str, output_dir: str, learning_rate: float
) -> dict[str, Any]:
    """What the configurations of all four trainers share."""
    place = resolve_device(device)
    return {
        "output_dir": output_dir,
        "learning_rate": config.learning_rate or learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.rows_at_once,
        "gradient_accumulation_steps": config.batch_size // config.rows_at_once,
        "max_grad_norm": config.max_grad_norm,
        "max_length": None,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": resolve_dtype(config.dtype, place) == torch.bfloat16,
        "use_cpu": place.type == "cpu",
        "seed": config.seed if config.seed is not None else seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def train_and_save(
    make: Callable[[str], transformers.Trainer],
    *,
    out_dir: Path,
    policy_dir: Path,
    rows: pa.Table,
    record: dict[str, Any],
    say: Say | None = None,
    check: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Trains what `make` builds (it gets a scratch folder), writes `out_dir` in one rename.

    `check` sees the metrics of the first step, which are taken before it. Raises TrainingError,
    before anything is written, for an `out_dir` that exists and a loss or weight that is not
    finite.
    """
    refuse_existing(out_dir)
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as scratch:
        trainer = make(scratch)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Watch(say, check))
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = [float(entry["loss"]) for entry in steps]
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise TrainingError("a weight is not finite after training; nothing was written")
    about = record | {
        "policy_revision_in": policy_revision(policy_dir),
        "rows": rows.num_rows,
        "rows_sha256": _rows_sha256(rows),
        "steps": len(losses),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "trl": trl.__version__,
    }
    _save(model, out_dir, policy_dir, about)
    return Trained(
        out_dir, policy_revision(out_dir), rows.num_rows, losses, _numbers(steps[0]),
        _numbers(steps[-1]),
    )  # fmt: skip


def as_dataset(rows: pa.Table, columns: Sequence[str]) -> Dataset:
    """These columns, in memory."""
    return Dataset(rows.select(list(columns)))


def refuse_existing(out_dir: Path) -> None:
    """Raises TrainingError where there is something at `out_dir` already."""
    if out_dir.exists():
        raise TrainingError(f"{out_dir} exists already; name another folder, or remove it")


def refuse_unfit(policy_dir: Path, rows: pa.Table, columns: Sequence[str]) -> None:
    """Raises TrainingError for a model that is no decoder, and ids that its vocabulary lacks."""
    config = AutoConfig.from_pretrained(policy_dir)
    if config.is_encoder_decoder:
        raise TrainingError(f"{policy_dir}: an encoder-decoder model; TRL trains decoders only")
    size = config.get_text_config().vocab_size
    for column in columns:
        highest = max((max(ids, default=0) for ids in rows[column].to_pylist()), default=0)
        if highest >= size:
            raise TrainingError(
                f"{column} holds token {highest}, the vocabulary of {policy_dir} ends at "
                f"{size - 1}: the rows were tokenized for another policy; name that one"
            )


def parity_check(
    rows: pa.Table, policy_dir: Path, config: PreferenceConfig, device: str
) -> Callable[[dict[str, float]], None] | None:
    """Compares the first step with the stored log-probs where the policy is the reference itself.

    TRL's `rewards` are beta (log-prob - reference log-prob) and must then be 0: a wrong tokenizer,
    temperature or adapter shows here, before it trained. None where there is nothing to compare.
    """
    if set(rows["reference_revision"].to_pylist()) != {policy_revision(policy_dir)}:
        return None
    limit = _PARITY[resolve_dtype(config.dtype, resolve_device(device))]

    def check(metrics: dict[str, float]) -> None:
        for side in ("rewards/chosen", "rewards/rejected"):
            gap = metrics.get(side, 0.0) / config.beta
            if not abs(gap) <= limit:
                raise TrainingError(
                    f"the policy is the reference, but its log-probs are {gap:+.3g} nats a "
                    f"completion off the stored ones ({side}; allowed: {limit:g}); nothing was "
                    "trained. The rows were not scored by this policy with the same tokens"
                )

    return check


class _Watch(TrainerCallback):
    """Looks at every step's metrics: stops at what is not finite, and tells how far it is."""

    def __init__(self, say: Say | None, check: Callable[[dict[str, float]], None] | None) -> None:
        self._say, self._check = say, check

    def on_log(
        self,
        args: Any,  # noqa: ARG002
        state: Any,
        control: Any,  # noqa: ARG002
        logs: Any = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        numbers = _numbers(logs)
        if self._check is not None and state.global_step == 1:
            self._check(numbers)
        if not (math.isfinite(numbers["loss"]) and math.isfinite(numbers.get("grad_norm", 0.0))):
            raise TrainingError(
                f"step {state.global_step}: loss {numbers['loss']}, gradient norm "
                f"{numbers.get('grad_norm')}; nothing was written. Lower the learning rate"
            )
        if self._say is not None:
            self._say(state.global_step, state.max_steps, numbers)


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


def _rows_sha256(rows: pa.Table) -> str:
    names = [
        name for name in ("chosen_id", "rejected_id", "rollout_id") if name in rows.schema.names
    ]
    text = json.dumps([rows[name].to_pylist() for name in names])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(model: Any, out_dir: Path, tokenizer_from: Path, record: dict[str, Any]) -> None:
    """Writes the model beside `out_dir`, then renames it in; the tokenizer byte for byte."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, fresh / name)
    (fresh / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    fresh.rename(out_dir)
