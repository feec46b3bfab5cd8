"""DPO on stored pairs (Rafailov et al. 2305.18290): sampled tokens, stored reference log-probs.

TRL's trainer, fed token-exactly; no reference model is loaded, for the warehouse holds what it
would say. Pairs that were imported as text are rendered by the policy's own chat template, and the
policy as it starts is their reference. Not here: pairs (selection.py), what is shared with the
other trainers (trl_trainer.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from trl import DPOConfig, DPOTrainer

from training.preference.config import PreferenceConfig
from training.preference.rows import require
from training.preference.trained_folder import Trained, refuse_unfit
from training.preference.trl_trainer import (
    Job,
    Say,
    StoredDPOTrainer,
    as_dataset,
    parity_check,
    train_and_save,
)

_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
_TEXTS = ("prompt", "chosen", "rejected")
_LEARNING_RATE = 1e-6


def train_dpo(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: Say | None = None,
) -> Trained:
    """Trains the policy in `policy_dir` on `preference_rows.dpo_rows`, writes it to `out_dir`.

    Rows of which none has ids train as text. Raises TrainingError, before anything is written, for
    rows of which some have no ids or reference log-probs, for a policy that is the reference
    and disagrees with its stored log-probs, and for a loss that is not finite.
    """
    is_text = rows["prompt_ids"].null_count == rows.num_rows
    columns = _TEXTS if is_text else _COLUMNS
    require(rows, columns)
    refuse_unfit(policy_dir, rows, () if is_text else columns[:3])
    job = Job("dpo", _LEARNING_RATE, policy_dir, out_dir, config, seed, device, say)

    def make(arguments: dict[str, Any], tokenizer: Any) -> DPOTrainer:
        return (DPOTrainer if is_text else StoredDPOTrainer)(
            model=str(policy_dir),
            args=DPOConfig(**arguments, beta=config.beta, precompute_ref_log_probs=True),
            train_dataset=as_dataset(rows, columns),
            processing_class=tokenizer,
        )

    return train_and_save(job, rows, make, parity_check(job, rows))
