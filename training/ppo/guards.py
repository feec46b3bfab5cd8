"""What stored log-probs say before anything trains: parity of fresh rows, staleness of old ones.

Not here: what SQL can tell of a row (dataset.py), and divergence while training (epochs.py).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError
from training.ppo import formulas as ppo
from training.ppo.config import TrainingConfig
from training.ppo.dataset import TrainingSet

PARITY_FLOAT32, PARITY_BFLOAT16 = 1e-4, 0.02
_LARGEST_BIAS = 0.005  # nats a token; noise has mean 0, a wrong temperature or top_p has not
_LARGEST_GAP = 1.0  # at the 99.9th percentile


class ParityError(TrainingError):
    """The stored log-probs are not those of the policy about to be trained."""


def check_parity(
    rows: TrainingSet, proximal: Tensor, behavior: Tensor, mask: Tensor, limit: float
) -> dict[str, float]:
    """Recomputed against stored log-probs [n, t]; the gap's size is noise, its mean must be 0.

    A wrong chat template, sampling parameter, precision or adapter shows here before it can train.
    Only rows that this very policy sampled can show it; of earlier rounds' rows the gap is what the
    policy has learned since. Raises ParityError naming the worst rollouts, TrainingError where the
    policy has no log-prob.
    """
    if not torch.isfinite(proximal).all():
        bad = [rows.rollout_ids[i] for i in (~torch.isfinite(proximal)).any(1).nonzero()[:3, 0]]
        raise TrainingError(f"the policy's log-probs are not finite, first for rollouts {bad}")
    fresh = torch.from_numpy(rows.is_fresh)
    if not fresh.any():
        return {"parity_rows": 0.0}
    proximal, behavior, mask = proximal[fresh], behavior[fresh], mask[fresh]
    gap = (proximal - behavior)[mask.bool()]
    mean_abs, mean = float(gap.abs().mean()), float(gap.mean())
    high = float(np.quantile(gap.abs().numpy(), 0.999))
    if mean_abs > limit or abs(mean) > _LARGEST_BIAS or high > _LARGEST_GAP:
        worst = ((proximal - behavior).abs() * mask).sum(1).argsort(descending=True)[:3]
        ids = [rows.rollout_ids[i] for i in np.flatnonzero(rows.is_fresh)[worst.numpy()]]
        raise ParityError(
            f"stored and recomputed log-probs differ by {mean_abs:.2g} nats a token (mean "
            f"{mean:+.2g}, 99.9th percentile {high:.2g}; allowed: {limit:g}, {_LARGEST_BIAS}, "
            f"{_LARGEST_GAP:g}), most for rollouts {ids}. The "
            "rows were not sampled by this policy at temperature 1 with the same tokens and "
            "precision; nothing was trained"
        )
    return {
        "parity_mean_abs": mean_abs,
        "parity_mean": mean,
        "parity_p999": high,
        "parity_rows": float(fresh.sum()),
    }


def parity_limit(rows: TrainingSet, config: TrainingConfig, dtype: torch.dtype) -> float:
    """The largest mean gap in nats a token, for a trainer that computes in `dtype`."""
    if config.parity_mean_abs is not None:
        return config.parity_mean_abs
    is_exact = rows.is_float32 and dtype == torch.float32
    return PARITY_FLOAT32 if is_exact else PARITY_BFLOAT16


def too_stale(
    rows: TrainingSet, gap: Tensor, mask: Tensor, config: TrainingConfig
) -> tuple[dict[int, str], dict[str, float]]:
    """Source rounds that may not train, with the reason; what is measured of each source round.

    A round's weight is worth little once the policy has left it: the effective sample size of its
    sequences tells (2602.17616 finds that it predicts collapse). The newest round always trains.
    """
    sources = torch.tensor(rows.source_rounds)
    rounds = sorted(set(rows.source_rounds))
    if len(rounds) == 1:
        return {}, {}
    metrics: dict[str, float] = {}
    for number in rounds:
        chosen = sources == number
        found = ppo.importance_metrics(gap[chosen], mask[chosen], config.importance_cap)
        metrics |= {f"{name}/round={number}": value for name, value in found.items()}
        metrics[f"rows/round={number}"] = float(chosen.sum())
    floor, stale = config.replay_min_ess, {}
    for number in rounds[:-1]:
        size = metrics[f"ess_seq/round={number}"]
        if size < floor:
            stale[number] = (
                f"round {number} is stale: effective sample size {size:.2f} is below "
                f"training.replay_min_ess {floor:g}"
            )
    kept = torch.tensor([number not in stale for number in rows.source_rounds])
    whole = ppo.importance_metrics(gap[kept], mask[kept], config.importance_cap)["ess_seq"]
    if whole < floor:
        for number in set(rounds[:-1]) - set(stale):
            stale[number] = (
                f"the window is stale: effective sample size {whole:.2f} is below "
                f"training.replay_min_ess {floor:g}"
            )
    return stale, metrics


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
