"""What ends a training while it runs: numbers that are not finite, and ratios that run away.

Not here: what is refused before the first step (gates.py).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from training.dataset import TrainingError, TrainingSet

# Mean |ratio - 1| of the first minibatch, before any step: in float32 nothing but rounding.
_FIRST_RATIO_FLOAT32, _FIRST_RATIO_BFLOAT16 = 1e-3, 0.02


class DivergedError(TrainingError):
    """Loss or gradient is not finite, or a ratio is impossible; nothing was written."""


def first_ratio_error(dtype: torch.dtype) -> float:
    """The largest mean |ratio - 1| before any step, for a forward pass in `dtype`."""
    return _FIRST_RATIO_FLOAT32 if dtype == torch.float32 else _FIRST_RATIO_BFLOAT16


def refuse_divergence(
    metrics: dict[str, float],
    rows: TrainingSet,
    returns: Tensor,
    minibatch: list[int],
    worst: int,
    *,
    max_ratio: float,
    first_ratio_error: float | None,
) -> None:
    """Raises DivergedError, naming rollouts, where a minibatch's metrics forbid its step.

    `returns` [n, t]; `worst` is the row of the largest ratio; `first_ratio_error` is the limit of
    the first minibatch, None for all others.
    """
    ids = rows.rollout_ids
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise DivergedError(
            f"{', '.join(bad)} not finite in the minibatch of rollouts "
            f"{_not_finite(rows, returns, minibatch)}...; lower training.learning_rate or look at "
            "their rewards; nothing was written"
        )
    if first_ratio_error is not None and metrics["ratio_error"] > first_ratio_error:
        raise DivergedError(
            f"before any step the policy differs from itself: mean |ratio - 1| is "
            f"{metrics['ratio_error']:.2g}, allowed {first_ratio_error:g}, for rollouts "
            f"{[ids[row] for row in minibatch[:3]]}...; is there dropout in the model? Nothing was "
            "written"
        )
    if metrics["ratio_max"] > max_ratio:
        raise DivergedError(
            f"a token's ratio to the proximal policy is {metrics['ratio_max']:.3g}, over "
            f"training.max_ratio {max_ratio:g}, in rollout {ids[worst]}: the policy runs away; "
            "lower training.learning_rate or training.epochs. Nothing was written"
        )


def _not_finite(rows: TrainingSet, returns: Tensor, minibatch: list[int]) -> list[str]:
    """At most three rollouts with such a reward, else such returns, else any of these."""
    # One such reward is in every advantage, by their common mean: it may be in another batch.
    rewards = np.flatnonzero(~np.isfinite(rows.rewards)).tolist()
    guilty = [row for row in minibatch if not returns[row].isfinite().all()]
    return [rows.rollout_ids[row] for row in (rewards or guilty or minibatch)[:3]]
