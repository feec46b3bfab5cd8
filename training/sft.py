"""Supervised training on the best of n completions of each prompt, token-exactly, through TRL.

Also known as rejection sampling or best-of-n distillation. The loss is the completion's alone. Not
here: which completion is best (preference_rows.py).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from training import trl_support
from training.preference_config import PreferenceConfig
from training.preference_rows import require

_COLUMNS = ("input_ids", "labels")
_LEARNING_RATE = 2e-5


def train_sft(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: trl_support.Say | None = None,
) -> trl_support.Trained:
    """Trains the policy in `policy_dir` on `preference_rows.sft_rows`, writes it to `out_dir`.

    Raises TrainingError, before anything is written, for rows without ids and for a loss that is
    not finite.
    """
    require(rows, _COLUMNS)
    trl_support.refuse_unfit(policy_dir, rows, ("input_ids",))

    def make(scratch: str) -> SFTTrainer:
        shared = trl_support.trainer_arguments(
            config, seed=seed, device=device, output_dir=scratch, learning_rate=_LEARNING_RATE
        )
        return SFTTrainer(
            model=str(policy_dir),
            args=SFTConfig(**shared),
            train_dataset=trl_support.as_dataset(rows, _COLUMNS),
            processing_class=AutoTokenizer.from_pretrained(policy_dir),
        )

    return trl_support.train_and_save(
        make,
        out_dir=out_dir,
        policy_dir=policy_dir,
        rows=rows,
        record={"method": "sft", "seed": seed, "config": config.model_dump(mode="json")},
        say=say,
    )
