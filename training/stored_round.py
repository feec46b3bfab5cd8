"""A stored round, scored once before its training: what does not change while the policy moves.

One pass without gradients gives proximal log-probs and values; then the parity gate, the critic's
warm-up, importance weights, returns and whitened advantages.
Not here: gradients on the policy (ppo_trainer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from training import ppo
from training.actor_critic import ActorCritic
from training.batches import TokenBatch, pad, token_batches
from training.config import TrainingConfig
from training.dataset import TrainingError, TrainingSet
from training.training_log import Floats

PARITY_FLOAT32, PARITY_BFLOAT16 = 1e-4, 0.02
_LARGEST_BIAS = 0.005  # nats a token; noise has mean 0, a wrong temperature or top_p has not
_LARGEST_GAP = 1.0  # at the 99.9th percentile
_CRITIC_BATCH = 1024  # tokens


class ParityError(TrainingError):
    """The stored log-probs are not those of the policy about to be trained."""


@dataclass(frozen=True)
class StoredRound:
    """The round's tokens, all [n, t] float32 on the CPU, 0 at padding; log-probs in nats."""

    mask: Tensor
    proximal: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor
    weights: Tensor

    def take(self, batch: TokenBatch) -> StoredRound:
        """The rows of a batch, as wide as its completions, on its device."""
        width, device = batch.mask.shape[1], batch.mask.device
        return StoredRound(
            **{f.name: getattr(self, f.name)[batch.rows, :width].to(device) for f in fields(self)}
        )

    def row_means(self, x: Tensor) -> Floats:
        """Mean of x [n, t] over each row's tokens, [n]."""
        return ((x * self.mask).sum(1) / self.mask.sum(1)).numpy()


def prepare_round(
    model: ActorCritic,
    rows: TrainingSet,
    reference: Sequence[Floats] | None,
    config: TrainingConfig,
    *,
    kl_coefficient: float,
    seed: int,
) -> tuple[StoredRound, dict[str, float]]:
    """Scores the round, checks parity, warms a new critic up; the round and its metrics.

    `reference` None: the policy is the reference itself. Raises ParityError.
    """
    is_new_critic = not model.has_trained_critic and config.critic_warmup_epochs > 0
    batches = token_batches(
        rows.prompt_ids,
        rows.completion_ids,
        range(len(rows.rollout_ids)),
        micro_batch_tokens=config.micro_batch_tokens,
        device=model.device,
    )
    mask = pad([np.ones(len(ids), np.float32) for ids in rows.completion_ids])
    behavior = pad(rows.behavior_logprobs)
    proximal, values, states = _score(model, batches, mask, keep_states=is_new_critic)
    metrics = check_parity(rows, proximal, behavior, mask, _parity_limit(model, rows, config))
    ref = proximal if reference is None else pad(reference)
    scores = torch.from_numpy(rows.rewards)
    rewards = ppo.token_rewards(scores, proximal, ref, mask, kl_coefficient)
    if is_new_critic:
        monte_carlo = _returns(rewards, torch.zeros_like(values), mask, config, 1.0)
        values = _warm_up_critic(model, states, monte_carlo, mask, config, seed)
    advantages = ppo.generalized_advantages(
        rewards, values, mask, config.discount, config.gae_lambda
    )
    whitened, mean, sd = ppo.whiten(advantages, mask)
    returns = _returns(rewards, values, mask, config, config.value_lambda)
    weights, importance = ppo.importance_weights(proximal, behavior, mask, config.importance_cap)
    stored = StoredRound(mask, proximal, values, returns, whitened, weights)
    metrics |= importance | {
        "advantage_mean": float(mean),
        "advantage_sd": float(sd),
        # From stored rows, nats per sequence: not what the KL controller may see.
        "kl_to_reference_stale": float((ppo.kl_estimate(proximal, ref) * mask).sum(1).mean()),
        "kl_coefficient": kl_coefficient,
    }
    return stored, metrics | _round_metrics(stored, scores)


def _round_metrics(stored: StoredRound, rewards: Tensor) -> dict[str, float]:
    return {
        "reward_mean": float(rewards.mean()),
        "reward_sd": float(rewards.std(correction=0)),
        "explained_variance": ppo.explained_variance(stored.returns, stored.values, stored.mask),
        "rows": float(len(stored.mask)),
        "tokens": float(stored.mask.sum()),
    }


def check_parity(
    rows: TrainingSet, proximal: Tensor, behavior: Tensor, mask: Tensor, limit: float
) -> dict[str, float]:
    """Recomputed against stored log-probs [n, t]; the gap's size is noise, its mean must be 0.

    A wrong chat template, sampling parameter, precision or adapter shows here before it can train.
    Raises ParityError naming the worst rollouts, TrainingError where the policy has no log-prob.
    """
    if not torch.isfinite(proximal).all():
        bad = [rows.rollout_ids[i] for i in (~torch.isfinite(proximal)).any(1).nonzero()[:3, 0]]
        raise TrainingError(f"the policy's log-probs are not finite, first for rollouts {bad}")
    gap = (proximal - behavior)[mask.bool()]
    mean_abs, mean = float(gap.abs().mean()), float(gap.mean())
    high = float(np.quantile(gap.abs().numpy(), 0.999))
    if mean_abs > limit or abs(mean) > _LARGEST_BIAS or high > _LARGEST_GAP:
        worst = ((proximal - behavior).abs() * mask).sum(1).argsort(descending=True)[:3]
        raise ParityError(
            f"stored and recomputed log-probs differ by {mean_abs:.2g} nats a token (mean "
            f"{mean:+.2g}, 99.9th percentile {high:.2g}; allowed: {limit:g}, {_LARGEST_BIAS}, "
            f"{_LARGEST_GAP:g}), most for rollouts {[rows.rollout_ids[i] for i in worst]}. The "
            "rows were not sampled by this policy at temperature 1 with the same tokens and "
            "precision; nothing was trained"
        )
    return {"parity_mean_abs": mean_abs, "parity_mean": mean, "parity_p999": high}


def _parity_limit(model: ActorCritic, rows: TrainingSet, config: TrainingConfig) -> float:
    if config.parity_mean_abs is not None:
        return config.parity_mean_abs
    is_exact = rows.is_float32 and model.dtype == torch.float32
    return PARITY_FLOAT32 if is_exact else PARITY_BFLOAT16


@torch.no_grad()
def _score(
    model: ActorCritic, batches: Sequence[TokenBatch], mask: Tensor, *, keep_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs and values [n, t]; the final states [tokens, h], row by row, or none of them."""
    logprobs, values = torch.zeros_like(mask), torch.zeros_like(mask)
    number = mask.flatten().cumsum(0).reshape(mask.shape).long() - 1  # of a token in its round
    states = torch.empty(0)
    for batch in batches:
        scores = model.logprobs_and_values(batch)
        width = batch.mask.shape[1]
        logprobs[batch.rows, :width] = scores.logprobs.cpu()
        values[batch.rows, :width] = scores.values.cpu()
        if keep_states:
            if not len(states):
                states = scores.states.new_empty(int(mask.sum()), scores.states.shape[1])
            chosen = number[batch.rows, :width][mask[batch.rows, :width].bool()]
            states[chosen.to(states.device)] = scores.states
    return logprobs, values, states


def _returns(
    rewards: Tensor, values: Tensor, mask: Tensor, config: TrainingConfig, gae_lambda: float
) -> Tensor:
    """Lambda-returns [n, t]: the critic's targets (lambda of their own as in VAPO)."""
    gae = ppo.generalized_advantages(rewards, values, mask, config.discount, gae_lambda)
    return (gae + values) * mask


def _warm_up_critic(
    model: ActorCritic,
    states: Tensor,
    returns: Tensor,
    mask: Tensor,
    config: TrainingConfig,
    seed: int,
) -> Tensor:
    """Fits the value head alone to the Monte Carlo returns [n, t]; its values [n, t].

    The states [tokens, h] stand still, so this costs next to nothing, and the first advantages are
    no longer noise.
    """
    is_token = mask.bool()
    targets = returns[is_token].to(model.device)
    with torch.no_grad():
        model.value_head.bias.fill_(float(targets.mean()))
    parameters = list(model.value_head.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.critic_learning_rate)
    random = np.random.default_rng([seed, len(targets)])
    for _ in range(config.critic_warmup_epochs):
        order = torch.from_numpy(random.permutation(len(targets))).to(model.device)
        for chosen in order.split(_CRITIC_BATCH):
            loss = 0.5 * (model.values(states[chosen]) - targets[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return torch.zeros_like(returns).masked_scatter(is_token, model.values(states).cpu())
