"""All that is ours around TRL's trainers: stored rows in, a trained model out.

The only module that touches TRL's private methods (1.16). DPO and KTO prepare a data set by
rendering and encoding its texts anew, and reference log-probs by a pass of a reference model;
`StoredDPOTrainer` and `StoredKTOTrainer` take both from the rows as they are. Nothing is ever cut
off: `max_length` is None, but for the reward model, whose trainer drops what is longer. Not here:
what one method needs (methods.py), folders (trained_folder.py).
"""

from __future__ import annotations

import math
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
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

from training.errors import TrainingError
from training.policy.loading import resolve_device, resolve_dtype
from training.preference.config import PreferenceConfig
from training.preference.trained_folder import Trained, refuse_existing, rows_record, save_trained
from training.revision import policy_revision

# How far a policy that is the reference may be from the stored log-probs, nats per completion on
# average: rounding of the precision that both were computed in.
_PARITY = {torch.float32: 0.01, torch.bfloat16: 0.5}

Say = Callable[[int, int, dict[str, float]], None]
Check = Callable[[dict[str, float]], None]
Make = Callable[[dict[str, Any], Any], transformers.Trainer]


class _StoredTokens:
    """The rows are what the trainer would have made of them: ids, and reference log-probs.

    Needs precompute_ref_log_probs=True, or TRL loads a reference model, which is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.ref_model is not None:  # type: ignore[attr-defined]  # of the trainer beside
            raise TrainingError("TRL loaded a reference model; its log-probs are stored")

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class StoredDPOTrainer(_StoredTokens, trl.DPOTrainer):
    """DPO on `prompt_ids`, `chosen_ids`, `rejected_ids`, `ref_chosen_logps`, `ref_rejected_logps`.

    The first three are lists of token ids, the others sums over a completion, in nats.
    """


class StoredKTOTrainer(_StoredTokens, trl.KTOTrainer):
    """KTO on `prompt_ids`, `completion_ids`, `KL_completion_ids`, `label`, `ref_logps` and
    `ref_KL_logps`, in batches of the rows as they stand.
    """


@dataclass(frozen=True)
class Job:
    """What one training run is given, whatever the method.

    `learning_rate` stands in for a configuration without one.
    """

    method: str
    learning_rate: float
    policy_dir: Path
    out_dir: Path
    config: PreferenceConfig
    seed: int
    device: str
    say: Say | None = None

    def arguments(self, output_dir: str) -> dict[str, Any]:
        """What the configurations of all four trainers share."""
        config, place = self.config, resolve_device(self.device)
        return {
            "output_dir": output_dir,
            "learning_rate": config.learning_rate or self.learning_rate,
            "num_train_epochs": config.epochs,
            "per_device_train_batch_size": config.rows_at_once,
            "gradient_accumulation_steps": config.batch_size // config.rows_at_once,
            "max_grad_norm": config.max_grad_norm,
            "max_length": None,
            "gradient_checkpointing": config.gradient_checkpointing,
            "bf16": self.dtype == torch.bfloat16,
            "use_cpu": place.type == "cpu",
            "seed": self.seed,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the forward pass; weights are float32."""
        return resolve_dtype(self.config.dtype, resolve_device(self.device))


def train_and_save(job: Job, rows: pa.Table, make: Make, check: Check | None = None) -> Trained:
    """Trains what `make` builds of the shared arguments and a tokenizer; writes `job.out_dir`.

    `check` sees the metrics of the first step, which are taken before it. Raises TrainingError,
    before anything is written, for a folder that exists and a loss or weight that is not finite.
    """
    refuse_existing(job.out_dir)
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as scratch:
        trainer = make(job.arguments(scratch), AutoTokenizer.from_pretrained(job.policy_dir))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Watch(job.say, check))
        trainer.train()
    steps = [_numbers(entry) for entry in trainer.state.log_history if "loss" in entry]
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise TrainingError("a weight is not finite after training; nothing was written")
    record = rows_record(rows) | {
        "method": job.method,
        "seed": job.seed,
        "config": job.config.model_dump(mode="json"),
        "policy_revision_in": policy_revision(job.policy_dir),
        "steps": len(steps),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "trl": trl.__version__,
    }
    revision = save_trained(model, job.out_dir, job.policy_dir, record, rows)
    return Trained(job.out_dir, revision, [step["loss"] for step in steps], steps[0], steps[-1])


def as_dataset(rows: pa.Table, columns: Sequence[str]) -> Dataset:
    """These columns, in memory."""
    return Dataset(rows.select(list(columns)))


def parity_check(job: Job, rows: pa.Table) -> Check | None:
    """Compares the first step with the stored log-probs where the policy is the reference itself.

    TRL's `rewards` are beta (log-prob - reference log-prob) and must then be 0: a wrong tokenizer,
    temperature or adapter shows here, before it trained. None where there is nothing to compare.
    """
    if set(rows["reference_revision"].to_pylist()) != {policy_revision(job.policy_dir)}:
        return None

    def check(metrics: dict[str, float]) -> None:
        limit = _PARITY[job.dtype]
        for side in ("rewards/chosen", "rewards/rejected"):
            gap = metrics.get(side, 0.0) / job.config.beta
            if not abs(gap) <= limit:
                raise TrainingError(
                    f"the policy is the reference, but its log-probs are {gap:+.3g} nats a "
                    f"completion off the stored ones ({side}; allowed: {limit:g}); nothing was "
                    "written. The rows were not scored by this policy with the same tokens"
                )

    return check


class _Watch(TrainerCallback):
    """Looks at every step's metrics: stops at what is not finite, and tells how far it is."""

    def __init__(self, say: Say | None, check: Check | None) -> None:
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
