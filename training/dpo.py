"""DPO on stored pairs (Rafailov et al. 2305.18290): sampled tokens, stored reference log-probs.

TRL's trainer, fed token-exactly; no reference model is loaded, for the warehouse holds what it
would say. Not here: pairs (preferences.py), what is shared with the other trainers
(trl_support.py).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer
from trl import DPOConfig

from training import trl_support
from training.preference_config import PreferenceConfig
from training.preference_rows import require

_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
_LEARNING_RATE = 1e-6


def train_dpo(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: trl_support.Say | None = None,
) -> trl_support.Trained:
    """Trains the policy in `policy_dir` on `preference_rows.dpo_rows`, writes it to `out_dir`.

    Raises TrainingError, before anything is written, for rows without ids or reference log-probs,
    for a policy that is the reference and disagrees with its stored log-probs, and for a loss that
    is not finite.
    """
    require(rows, _COLUMNS)
    trl_support.refuse_unfit(policy_dir, rows, _COLUMNS[:3])

    def make(scratch: str) -> trl_support.StoredDPOTrainer:
        shared = trl_support.trainer_arguments(
            config, seed=seed, device=device, output_dir=scratch, learning_rate=_LEARNING_RATE
        )
        trainer = trl_support.StoredDPOTrainer(
            model=str(policy_dir),
            args=DPOConfig(**shared, beta=config.beta, precompute_ref_log_probs=True),
            train_dataset=trl_support.as_dataset(rows, _COLUMNS),
            processing_class=AutoTokenizer.from_pretrained(policy_dir),
        )
        assert trainer.ref_model is None, "TRL loaded a reference model"
        return trainer

    return trl_support.train_and_save(
        make,
        out_dir=out_dir,
        policy_dir=policy_dir,
        rows=rows,
        record={"method": "dpo", "seed": seed, "config": config.model_dump(mode="json")},
        say=say,
        check=trl_support.parity_check(rows, policy_dir, config, device),
    )
