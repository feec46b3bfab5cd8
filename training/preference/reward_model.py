"""A reward model from pairs (Bradley-Terry), which then serves as a labeler of kind reward_model.

Unlike the policy's trainers it reads the dialogue through the model's own chat template and not the
sampled ids: so the labeler reads it, and pairs without ids (people's) train it too. Where rows have
a margin it is part of the loss (Llama 2, 2307.09288, equation 2). A dialogue longer than the model
can read is left out, as the labeler will not score it. Not here: serving it (labeling).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoConfig
from trl import RewardConfig, RewardTrainer

from training.errors import TrainingError
from training.preference.config import PreferenceConfig
from training.preference.rows import require
from training.preference.trained_folder import Trained, refuse_unfit
from training.preference.trl_trainer import Job, Say, as_dataset, train_and_save

_COLUMNS = ("prompt", "chosen", "rejected")
_LEARNING_RATE = 1e-4
_NO_LIMIT = 10**9  # a tokenizer without a limit says 10**30
_log = logging.getLogger(__name__)


def train_reward_model(
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: Say | None = None,
) -> Trained:
    """Trains one output on top of the model in `policy_dir`, writes a classifier to `out_dir`.

    `rows`: `preference_rows.reward_rows`, or any table with message lists `prompt`, `chosen`,
    `rejected`, and perhaps `margin`. Raises TrainingError, before anything is written, for a
    tokenizer without a chat template and for a loss that is not finite.
    """
    require(rows, _COLUMNS)
    refuse_unfit(policy_dir, rows, ())
    columns = (*_COLUMNS, "margin") if "margin" in rows.column_names else _COLUMNS
    job = Job("reward_model", _LEARNING_RATE, policy_dir, out_dir, config, seed, device, say)

    def make(arguments: dict[str, Any], tokenizer: Any) -> RewardTrainer:
        if not isinstance(tokenizer.chat_template, str):
            raise TrainingError(
                f"{policy_dir}: its tokenizer has no chat template (or several), so there is no "
                "one way to read a dialogue; save chat_template.jinja with one beside it"
            )
        longest = _context(policy_dir, tokenizer)
        trainer = RewardTrainer(
            model=str(policy_dir),
            args=RewardConfig(**arguments | {"max_length": longest}),
            train_dataset=as_dataset(rows, columns),
            processing_class=tokenizer,
        )
        left = len(trainer.train_dataset)  # type: ignore[arg-type]  # TRL drops, it does not cut
        if not left:
            raise TrainingError(f"all {rows.num_rows} pairs are longer than {longest} tokens")
        if left < rows.num_rows:
            _log.warning(
                "%d of %d pairs are longer than the model's %d tokens and are left out",
                rows.num_rows - left, rows.num_rows, longest,
            )  # fmt: skip
        return trainer

    return train_and_save(job, rows, make)


def _context(policy_dir: Path, tokenizer: Any) -> int | None:
    """How many tokens the model can read, if it says so."""
    config = AutoConfig.from_pretrained(policy_dir).get_text_config()
    places = getattr(config, "max_position_embeddings", None)
    known = [n for n in (places, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
    return min(known, default=None)
