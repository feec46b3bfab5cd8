"""A reward model from pairs (Bradley-Terry), which then serves as a labeler of kind reward_model.

Unlike the policy's trainers it reads the dialogue through the model's own chat template and not the
sampled ids: so the labeler reads it, and pairs without ids (people's) train it too. Where rows have
a margin it is part of the loss (Llama 2, 2307.09288, equation 2). Not here: serving it (labeling).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer
from trl import RewardConfig, RewardTrainer

from training import trl_support
from training.dataset import TrainingError
from training.preference_config import PreferenceConfig
from training.preference_rows import require

_COLUMNS = ("prompt", "chosen", "rejected")
_LEARNING_RATE = 1e-4


def train_reward_model(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: trl_support.Say | None = None,
) -> trl_support.Trained:
    """Trains one output on top of the model in `policy_dir`, writes a classifier to `out_dir`.

    `rows`: `preference_rows.reward_rows`, or any table with message lists `prompt`, `chosen`,
    `rejected`, and perhaps `margin`. Raises TrainingError, before anything is written, for a
    tokenizer without a chat template and for a loss that is not finite.
    """
    require(rows, _COLUMNS)
    trl_support.refuse_unfit(policy_dir, rows, ())
    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    if not isinstance(tokenizer.chat_template, str):
        raise TrainingError(
            f"{policy_dir}: its tokenizer has no chat template (or several), so there is no one "
            "way to read a dialogue; save chat_template.jinja with one beside it"
        )
    has_margin = "margin" in rows.column_names

    def make(scratch: str) -> RewardTrainer:
        shared = trl_support.trainer_arguments(
            config, seed=seed, device=device, output_dir=scratch, learning_rate=_LEARNING_RATE
        )
        return RewardTrainer(
            model=str(policy_dir),
            args=RewardConfig(**shared),
            train_dataset=trl_support.as_dataset(
                rows, (*_COLUMNS, "margin") if has_margin else _COLUMNS
            ),
            processing_class=tokenizer,
        )

    return trl_support.train_and_save(
        make,
        out_dir=out_dir,
        policy_dir=policy_dir,
        rows=rows,
        record={"method": "reward_model", "seed": seed, "config": config.model_dump(mode="json")},
        say=say,
    )
