"""Supervised training on the best of n completions of each prompt, token-exactly, through TRL.

Also known as rejection sampling or best-of-n distillation. Texts that nobody sampled (revisions, as
in Bai et al. 2212.08073, section 3.1, and people's answers) are rendered by the policy's own chat
template. The loss is the completion's alone. Not here: which completion is best
(rows.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from trl import SFTConfig, SFTTrainer

from training.preference.config import PreferenceConfig
from training.preference.rows import require
from training.preference.trained_folder import Trained, refuse_unfit
from training.preference.trl_trainer import Job, Say, as_dataset, train_and_save

_COLUMNS, _TEXTS = ("input_ids", "labels"), ("prompt", "completion")
_LEARNING_RATE = 2e-5


def train_sft(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: Say | None = None,
) -> Trained:
    """Trains the policy in `policy_dir` on `preference_rows.sft_rows`, writes it to `out_dir`.

    Raises TrainingError, before anything is written, for rows without ids or text and for a loss
    that is not finite.
    """
    columns = _COLUMNS if "input_ids" in rows.column_names else _TEXTS
    require(rows, columns)
    refuse_unfit(policy_dir, rows, ("input_ids",) if columns is _COLUMNS else ())
    job = Job("sft", _LEARNING_RATE, policy_dir, out_dir, config, seed, device, say)

    def make(arguments: dict[str, Any], tokenizer: Any) -> SFTTrainer:
        return SFTTrainer(
            model=str(policy_dir),
            args=SFTConfig(**arguments),
            train_dataset=as_dataset(rows, columns),
            processing_class=tokenizer,
        )

    return train_and_save(job, rows, make)
