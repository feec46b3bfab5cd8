"""The keys of `preference_training:` in a run configuration, one section for all four trainers.

Light: pydantic only, no torch. Not here: PPO's keys (ppo/config.py), what TRL does with them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PreferenceConfig(BaseModel):
    """DPO, KTO, SFT on the best of n, and the reward model, on stored rollouts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float | None = Field(
        None,
        gt=0,
        description="falls linearly to 0; None: TRL's own, 1e-6 for dpo and kto, 2e-5 for sft, "
        "1e-4 for the reward model",
    )
    epochs: int = Field(1, ge=1, description="passes over the rows")
    batch_size: int = Field(32, ge=2, description="rows (pairs, completions) per optimizer step")
    micro_batch_size: int = Field(
        8, ge=1, description="rows in one forward pass; memory only, but kto needs at least 2"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    beta: float = Field(
        0.1, gt=0, description="strength of the pull to the reference (DPO, 2305.18290, equation 7)"
    )
    margin: float = Field(0.5, ge=0, description="least difference of the rewards of a pair")
    threshold: float | None = Field(
        None, description="kto: desirable is a reward above it; None: above the mean of its round"
    )
    allow_truncated: bool = Field(
        False, description="also completions that were cut off at their token limit"
    )
    max_rows: int | None = Field(None, ge=1, description="train on a random sample of the rows")
    seed: int | None = Field(None, ge=0, description="None: the run's seed")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; auto: bfloat16 on CUDA, float32 on CPU"
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> PreferenceConfig:
        if self.batch_size % self.rows_at_once:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}; make it one"
            )
        return self

    @property
    def rows_at_once(self) -> int:
        """Rows in one forward pass: never more than an optimizer step takes."""
        return min(self.micro_batch_size, self.batch_size)
