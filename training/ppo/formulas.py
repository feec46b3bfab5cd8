"""The mathematics of PPO from stored rollouts: pure functions on tensors.

Three policies (Hilton et al. 2110.00641): `behavior` sampled the completions and its log-probs lie
in the warehouse; `proximal` is the policy as this round's training began; the policy itself moves.
Shapes: b completions, t token positions, right-padded; `mask` is 1 at a token, 0 at padding. Losses
are divided by a token count that the caller gives, so micro-batches of one step just add up.
Not here: models, batches, the loop over them (policy/actor_critic.py, policy/batches.py,
trainer.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # e^20: beyond it a ratio says nothing and only overflows
_CONTROLLER_STEP = 0.2


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of a micro-batch and what to watch; all but `ratio_max` add up over micro-batches.

    `k3` estimates KL(proximal || policy) in nats per token; `ratio_row` is the row of `ratio_max`.
    """

    loss: Tensor
    k3: Tensor
    clip_fraction: Tensor
    ratio_error: Tensor
    ratio_max: Tensor
    ratio_row: Tensor


def kl_estimate(
    logprobs: Tensor, other: Tensor, estimator: Literal["k1", "k2", "k3"] = "k1"
) -> Tensor:
    """KL(p || q) per token from samples of p: `logprobs` under p, `other` under q, any shape.

    k1 is unbiased and may be negative, k3 is unbiased and never is, k2 has the least variance
    (Schulman, "Approximating KL divergence", 2020).
    """
    gap = logprobs - other
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return 0.5 * gap.square()
    return torch.expm1((-gap).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)) + gap


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` [b, t] over the tokens."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x` [b, t] with mean 0 and sd 1 over the tokens, 0 at padding; its mean; its sd."""
    mean = masked_mean(x, mask)
    sd = masked_mean((x - mean).square(), mask).sqrt()
    return (x - mean) / (sd + 1e-8) * mask, mean, sd


def token_rewards(
    rewards: Tensor, proximal: Tensor, reference: Tensor, mask: Tensor, kl_coefficient: float
) -> Tensor:
    """Rewards per token [b, t]: -beta k1 everywhere, plus the completion's reward at its last.

    `rewards` [b]; log-probs [b, t]. k1, since the gradient of any other estimator in the reward is
    biased (Stiennon et al. 2009.01325, section 3.4).
    """
    paid = -kl_coefficient * kl_estimate(proximal, reference) * mask
    last = mask.long().sum(1) - 1
    return paid.scatter_add(1, last[:, None], rewards[:, None].to(paid.dtype))


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """GAE (Schulman et al. 1506.02438, equation 16) [b, t]; nothing follows the last token.

    Advantage plus value is the lambda-return; with lambda 1 it is Monte Carlo.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for step in range(rewards.shape[1] - 1, -1, -1):
        is_token = mask[:, step]
        delta = rewards[:, step] + discount * next_value - values[:, step]
        # Padding stands to the right only: until the last token everything stays 0.
        following = (delta + discount * gae_lambda * following) * is_token
        next_value = values[:, step] * is_token
        advantages[:, step] = following
    return advantages


def leave_one_out_advantages(
    rewards: Tensor, kl: Tensor, groups: Tensor, mask: Tensor, kl_coefficient: float
) -> Tensor:
    """RLOO (Ahmadian et al. 2402.14740, section 4.2) [b, t]: a completion against its siblings.

    `rewards` [b], `kl` [b, t] log-ratios to the reference, `groups` [b] whole numbers, one per
    prompt; every group needs two completions or more. All tokens of a completion share one value:
    its reward less the price of its KL, less the mean of the same over the rest of its group.
    """
    paid = rewards - kl_coefficient * (kl * mask).sum(1).to(rewards.dtype)
    _, place = groups.unique(return_inverse=True)
    count = torch.bincount(place).to(paid.dtype)[place]
    total = torch.zeros_like(paid).scatter_add(0, place, paid)[place]
    return (paid - (total - paid) / (count - 1))[:, None] * mask


def log_ratios(proximal: Tensor, behavior: Tensor, mask: Tensor) -> Tensor:
    """Log (pi_proximal / pi_behavior) [b, t], bounded, 0 at padding."""
    return ((proximal - behavior) * mask).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def importance_metrics(gap: Tensor, mask: Tensor, cap: float) -> dict[str, float]:
    """What the log-ratios [b, t] say of the rows' staleness, before any truncation.

    kl_* estimate KL(behavior || proximal) in nats per token; ess_* are effective sample sizes as a
    share of 1, per sequence and per token (from truncated weights they would look too good).
    """
    ratio = gap.exp() * mask
    sequence = gap.sum(1).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).double().exp()
    token = ratio[mask.bool()].double()
    metrics = {
        "importance_kl_k1": masked_mean(-gap, mask),
        "importance_kl_k3": masked_mean(ratio - mask - gap, mask),
        "importance_max": ratio.max(),
        "importance_over_cap": masked_mean((ratio > cap).to(gap.dtype), mask),
        "ess_seq": sequence.sum().square() / sequence.square().sum() / len(sequence),
        "ess_tok": token.sum().square() / token.square().sum() / len(token),
    }
    return {name: float(value) for name, value in metrics.items()}


def importance_weights(
    gap: Tensor,
    mask: Tensor,
    *,
    cap: float,
    level: Literal["token", "sequence", "none"] = "token",
    max_k3: float | None = None,
) -> Tensor:
    """Truncated weights min(pi_proximal / pi_behavior, cap) [b, t] from log-ratios [b, t].

    Constants, as in decoupled PPO (Hilton et al. 2110.00641; cap: AReaL 2505.24298). `sequence`
    gives all tokens their sequence's weight, `none` 1. A sequence whose mean k3 is over `max_k3`
    weighs 0; it stays in every denominator, so the others gain nothing by it.
    """
    if level == "token":
        weights = gap.exp()
    elif level == "sequence":
        total = gap.sum(1, keepdim=True).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        weights = total.exp().expand_as(gap)
    else:
        weights = torch.ones_like(gap)
    weights = weights.clamp(max=cap) * mask
    if max_k3 is None:
        return weights
    k3 = ((gap.exp() - 1 - gap) * mask).sum(1) / mask.sum(1).clamp(min=1)
    return weights * (k3 <= max_k3)[:, None]


def policy_loss(
    logprobs: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    *,
    clip_ratio: float,
    dual_clip: float,
    token_count: float,
) -> PolicyLoss:
    """The clipped surrogate (PPO, equation 7), dual-clipped (Ye et al. 1912.09729, equation 5).

    All tensors [b, t]; only `logprobs` carries a gradient. The ratio is against the proximal
    policy; staleness is in `weights` alone, never in both (it would count twice).
    """
    log_ratio = (logprobs - proximal) * mask
    ratio = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    with torch.no_grad():
        off = (ratio - 1).abs() * mask
        k3 = kl_estimate(proximal, logprobs, "k3") * mask
        is_clipped = (off > clip_ratio).to(ratio.dtype)
        ratio_max, ratio_row = (ratio * mask).amax(1).max(0)
    return PolicyLoss(
        loss=(loss * weights * mask).sum() / token_count,
        k3=k3.sum() / token_count,
        clip_fraction=is_clipped.sum() / token_count,
        ratio_error=off.sum() / token_count,
        ratio_max=ratio_max,
        ratio_row=ratio_row,
    )


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float,
    token_count: float,
) -> Tensor:
    """Half the squared error, the worse of the value and the value kept within `clip` of the old.

    All tensors [b, t]; `clip` in units of the reward (OpenAI baselines, ppo2).
    """
    kept = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns).square(), (kept - returns).square())
    return 0.5 * (worse * mask).sum() / token_count


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over the tokens of [b, t]; 0 where the returns do not vary."""
    _, _, sd = whiten(returns, mask)
    _, _, left = whiten(returns - values, mask)
    return 1 - float(left / sd) ** 2 if float(sd) > 0 else 0.0


def adapt_kl_coefficient(coefficient: float, measured_kl: float, target: float) -> float:
    """The next round's coefficient (Ziegler et al. 1909.08593, section 2.2), within 20 % of this.

    `measured_kl` comes from fresh samples, nats per sequence: the estimate from stored rows is
    biased and would loosen the brake while the policy runs away.
    """
    error = measured_kl / target - 1
    return coefficient * (1 + max(-_CONTROLLER_STEP, min(_CONTROLLER_STEP, error)))
