"""A stored round, scored once before its training: what does not change while the policy moves.

One pass without gradients gives proximal log-probs and values; then come the gates (guards.py), the
critic's warm-up, importance weights, returns and whitened advantages. Not here: gradients on the
policy (epochs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from training.policy.actor_critic import ActorCritic
from training.policy.batches import TokenBatch, pad, token_batches
from training.ppo import formulas as ppo
from training.ppo.config import TrainingConfig
from training.ppo.critic import warm_up_critic
from training.ppo.dataset import TrainingSet
from training.ppo.guards import check_parity, parity_limit, too_stale
from training.ppo.log import Floats
from training.ppo.parallel import Parallel


@dataclass(frozen=True)
class StoredRound:
    """The window's tokens, all [n, t] float32 on the CPU, 0 at padding; log-probs in nats."""

    mask: Tensor
    proximal: Tensor
    reference: Tensor
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


@dataclass(frozen=True)
class PreparedRound:
    """What the epochs start from: the rows that train after all, their tokens, the metrics.

    `stale`: source rounds that were dropped, with the reason.
    """

    rows: TrainingSet
    stored: StoredRound
    metrics: dict[str, float]
    stale: dict[int, str]


def prepare_round(
    model: ActorCritic,
    rows: TrainingSet,
    reference: Sequence[Floats] | None,
    config: TrainingConfig,
    parallel: Parallel,
    *,
    kl_coefficient: float,
    seed: int,
) -> PreparedRound:
    """Scores the window, checks parity, drops rounds that are too stale, warms a new critic up.

    `reference` None: the policy is the reference itself. Raises ParityError.
    """
    has_critic = config.advantage == "gae"
    is_new = has_critic and not model.has_trained_critic and config.critic_warmup_epochs > 0
    scored = _score(model, rows, reference, config, parallel, keep_states=is_new)
    behavior = pad(rows.behavior_logprobs)
    limit = parity_limit(rows, config, model.dtype)
    metrics = check_parity(rows, scored.proximal, behavior, scored.mask, limit)
    gap = ppo.log_ratios(scored.proximal, behavior, scored.mask)
    stale, by_round = too_stale(rows, gap, scored.mask, config)
    if stale:
        kept = torch.tensor([number not in stale for number in rows.source_rounds])
        rows, scored, gap = rows.without(stale), scored.only(kept), gap[kept]
    stored, found = _estimate(model, rows, scored, gap, config, kl_coefficient, seed)
    return PreparedRound(rows, stored, metrics | by_round | found, stale)


def _estimate(
    model: ActorCritic,
    rows: TrainingSet,
    scored: _Scored,
    gap: Tensor,
    config: TrainingConfig,
    kl_coefficient: float,
    seed: int,
) -> tuple[StoredRound, dict[str, float]]:
    """Rewards, values, returns, advantages and weights of the rows that train."""
    mask, kl = scored.mask, scored.proximal - scored.reference
    scores, values = torch.from_numpy(rows.rewards), scored.values
    rewards = ppo.token_rewards(scores, scored.proximal, scored.reference, mask, kl_coefficient)
    if len(scored.states):
        monte_carlo = _returns(rewards, torch.zeros_like(values), mask, config, 1.0)
        values = warm_up_critic(model, scored.states, monte_carlo, mask, config, seed)
    advantages = _advantages(rows, rewards, values, kl, mask, config, kl_coefficient)
    whitened, mean, sd = ppo.whiten(advantages, mask)
    stored = StoredRound(
        mask=mask,
        proximal=scored.proximal,
        reference=scored.reference,
        values=values,
        returns=_returns(rewards, values, mask, config, config.value_lambda),
        advantages=whitened,
        weights=ppo.importance_weights(
            gap,
            mask,
            cap=config.importance_cap,
            level=config.importance,
            max_k3=config.importance_max_k3,
        ),
    )
    metrics = ppo.importance_metrics(gap, mask, config.importance_cap) | {
        "advantage_mean": float(mean),
        "advantage_sd": float(sd),
        # From stored rows, nats per sequence: not what the KL controller may see.
        "kl_to_reference_stale": float((kl * mask).sum(1).mean()),
        "kl_coefficient": kl_coefficient,
        "reward_mean": float(scores.mean()),
        "reward_sd": float(scores.std(correction=0)),
        "explained_variance": ppo.explained_variance(stored.returns, values, mask),
        "rows": float(len(mask)),
        "tokens": float(mask.sum()),
    }
    return stored, metrics


def _advantages(
    rows: TrainingSet,
    rewards: Tensor,
    values: Tensor,
    kl: Tensor,
    mask: Tensor,
    config: TrainingConfig,
    kl_coefficient: float,
) -> Tensor:
    """Against the critic (`gae`) or against the prompt's other completions (`rloo`), [n, t]."""
    if config.advantage == "gae":
        return ppo.generalized_advantages(rewards, values, mask, config.discount, config.gae_lambda)
    names = list(zip(rows.source_rounds, rows.prompt_names, strict=True))
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    groups = torch.tensor([number[name] for name in names])
    scores = torch.from_numpy(rows.rewards)
    return ppo.leave_one_out_advantages(scores, kl, groups, mask, kl_coefficient)


@dataclass(frozen=True)
class _Scored:
    """Log-probs and values [n, t] before training; the final states [tokens, h], or none."""

    mask: Tensor
    proximal: Tensor
    reference: Tensor
    values: Tensor
    states: Tensor

    def only(self, kept: Tensor) -> _Scored:
        """The rows of the mask `kept` [n]."""
        states = self.states
        if len(states):
            states = states[kept.repeat_interleave(self.mask.sum(1).long()).to(states.device)]
        mask, proximal, reference, values = (
            x[kept] for x in (self.mask, self.proximal, self.reference, self.values)
        )
        return _Scored(mask, proximal, reference, values, states)


@torch.no_grad()
def _score(
    model: ActorCritic,
    rows: TrainingSet,
    reference: Sequence[Floats] | None,
    config: TrainingConfig,
    parallel: Parallel,
    *,
    keep_states: bool,
) -> _Scored:
    """One pass over all rows, a share by every process; states stand row by row."""
    mask = pad([np.ones(len(ids), np.float32) for ids in rows.completion_ids])
    logprobs, values = torch.zeros_like(mask), torch.zeros_like(mask)
    number = mask.flatten().cumsum(0).reshape(mask.shape).long() - 1  # of a token in its round
    states = torch.empty(0)
    if keep_states:
        width = model.value_head.in_features
        states = torch.zeros(int(mask.sum()), width, dtype=model.dtype, device=model.device)
    batches = token_batches(
        rows.prompt_ids,
        rows.completion_ids,
        range(len(rows.rollout_ids)),
        micro_batch_tokens=config.micro_batch_tokens,
        device=model.device,
    )
    for batch in batches[parallel.rank :: parallel.world]:
        scores = model.logprobs_and_values(batch, with_entropy=False)
        width = batch.mask.shape[1]
        logprobs[batch.rows, :width] = scores.logprobs.cpu()
        values[batch.rows, :width] = scores.values.cpu()
        if keep_states:
            chosen = number[batch.rows, :width][mask[batch.rows, :width].bool()]
            states[chosen.to(states.device)] = scores.states.to(states.dtype)
    logprobs, values = parallel.sum(logprobs), parallel.sum(values)
    states = parallel.sum(states) if keep_states else states
    ref = logprobs if reference is None else pad(reference)
    return _Scored(mask, logprobs, ref, values, states)


def _returns(
    rewards: Tensor, values: Tensor, mask: Tensor, config: TrainingConfig, gae_lambda: float
) -> Tensor:
    """Lambda-returns [n, t]: the critic's targets (lambda of their own as in VAPO)."""
    gae = ppo.generalized_advantages(rewards, values, mask, config.discount, gae_lambda)
    return (gae + values) * mask
