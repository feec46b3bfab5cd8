"""KTO on single completions, desirable or not (Ethayarajh et al. 2402.01306), token-exactly.

TRL's trainer with stored reference log-probs, so no reference model is loaded. The zero point KL
comes from another sample of the same prompt (queries.py), whose reference log-prob is stored
too. Not here: which completion is desirable (rows.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trl import KTOConfig

from training.errors import TrainingError
from training.preference.config import PreferenceConfig
from training.preference.rows import require
from training.preference.trained_folder import Trained, refuse_unfit
from training.preference.trl_trainer import (
    Job,
    Say,
    StoredKTOTrainer,
    as_dataset,
    parity_check,
    train_and_save,
)

_IDS = ("prompt_ids", "completion_ids", "KL_completion_ids")
_COLUMNS = (*_IDS, "label", "ref_logps", "ref_KL_logps")
_LEARNING_RATE = 1e-6


def train_kto(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: Say | None = None,
) -> Trained:
    """Trains the policy in `policy_dir` on `preference_rows.kto_rows`, writes it to `out_dir`.

    Raises TrainingError as `train_dpo` does, and for rows that are all desirable or all not.
    """
    require(rows, _COLUMNS)
    refuse_unfit(policy_dir, rows, _IDS)
    if config.rows_at_once < 2:
        raise TrainingError("preference_training.micro_batch_size: kto needs at least 2")
    desirable, undesirable = class_weights(rows["label"].to_pylist())
    job = Job("kto", _LEARNING_RATE, policy_dir, out_dir, config, seed, device, say)
    # TRL reads KTO's rows in the order they stand in, so they are shuffled here.
    shuffled = rows.take(pa.array(np.random.default_rng(seed).permutation(rows.num_rows)))

    def make(arguments: dict[str, Any], tokenizer: Any) -> StoredKTOTrainer:
        weights: dict[str, Any] = {
            "desirable_weight": desirable,
            "undesirable_weight": undesirable,
        }
        return StoredKTOTrainer(
            model=str(policy_dir),
            args=KTOConfig(**arguments, **weights, beta=config.beta, precompute_ref_log_probs=True),
            train_dataset=as_dataset(shuffled, _COLUMNS),
            processing_class=tokenizer,
        )

    return train_and_save(job, rows, make, parity_check(job, rows))


def class_weights(labels: list[bool]) -> tuple[float, float]:
    """Weights of desirable and undesirable rows: the rarer class counts as much as the other.

    Both products of weight and count are then equal, the lower end of equation 8. Raises
    TrainingError where one class is empty.
    """
    desirable = sum(labels)
    undesirable = len(labels) - desirable
    if not desirable or not undesirable:
        raise TrainingError(
            f"kto: {desirable} desirable and {undesirable} undesirable completions; it needs both: "
            "set preference_training.threshold between the rewards"
        )
    most = max(desirable, undesirable)
    return most / desirable, most / undesirable
