"""KTO on single completions, desirable or not (Ethayarajh et al. 2402.01306), token-exactly.

TRL's trainer with stored reference log-probs, so no reference model is loaded. The zero point KL
comes from another sample of the same prompt (preference_sql.py), whose reference log-prob is stored
too. Not here: which completion is desirable (preference_rows.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer
from trl import KTOConfig

from training import trl_support
from training.dataset import TrainingError
from training.preference_config import PreferenceConfig
from training.preference_rows import require

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
    say: trl_support.Say | None = None,
) -> trl_support.Trained:
    """Trains the policy in `policy_dir` on `preference_rows.kto_rows`, writes it to `out_dir`.

    Raises TrainingError as `train_dpo` does, and for rows that are all desirable or all not.
    """
    require(rows, _COLUMNS)
    trl_support.refuse_unfit(policy_dir, rows, _IDS)
    if config.rows_at_once < 2:
        raise TrainingError("preference_training.micro_batch_size: kto needs at least 2")
    desirable, undesirable = class_weights(rows["label"].to_pylist())
    # TRL reads KTO's rows in the order they stand in, so they are shuffled here.
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    shuffled = rows.take(pa.array(order))

    def make(scratch: str) -> trl_support.StoredKTOTrainer:
        shared = trl_support.trainer_arguments(
            config, seed=seed, device=device, output_dir=scratch, learning_rate=_LEARNING_RATE
        )
        trainer = trl_support.StoredKTOTrainer(
            model=str(policy_dir),
            args=KTOConfig(
                **shared,
                beta=config.beta,
                precompute_ref_log_probs=True,
                desirable_weight=desirable,
                undesirable_weight=undesirable,
            ),
            train_dataset=trl_support.as_dataset(shuffled, _COLUMNS),
            processing_class=AutoTokenizer.from_pretrained(policy_dir),
        )
        assert trainer.ref_model is None, "TRL loaded a reference model"
        return trainer

    return trl_support.train_and_save(
        make,
        out_dir=out_dir,
        policy_dir=policy_dir,
        rows=rows,
        record={"method": "kto", "seed": seed, "config": config.model_dump(mode="json")},
        say=say,
        check=trl_support.parity_check(rows, policy_dir, config, device),
    )


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
