"""The critic before its first round: the value head alone, fitted to what was really paid.

Not here: the critic's loss while the policy trains (formulas.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.policy.actor_critic import ActorCritic
from training.ppo.config import TrainingConfig

_CRITIC_BATCH = 1024  # tokens


def warm_up_critic(
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
