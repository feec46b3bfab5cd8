"""The epochs of PPO over one stored round: minibatches, micro-batches, optimizer steps, early stop.

Adam starts anew each round: at beta2 .95 its memory is twenty steps, and carrying it would triple a
checkpoint. Not here: what is computed once a round (stored_round.py), files (ppo_trainer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from training import ppo
from training.actor_critic import ActorCritic
from training.batches import TokenBatch, token_batches
from training.config import TrainingConfig
from training.dataset import TrainingError, TrainingSet
from training.stored_round import StoredRound
from training.training_log import MetricsLog

Progress = Callable[[int, int, dict[str, float]], None]
_ADAM_EPSILON = 1e-5  # as in OpenAI's PPO; 1e-8 lets rare tokens' first steps be full ones
# Mean |ratio - 1| of the first minibatch, before any step: in float32 nothing but rounding.
_FIRST_RATIO_FLOAT32, _FIRST_RATIO_BFLOAT16 = 1e-3, 0.02


class DivergedError(TrainingError):
    """Loss or gradient is not finite, or the first ratio is not 1; nothing was written."""


def train_epochs(
    model: ActorCritic,
    rows: TrainingSet,
    stored: StoredRound,
    config: TrainingConfig,
    log: MetricsLog,
    *,
    order_seed: tuple[int, int],
    progress: Progress,
) -> tuple[int, dict[str, float]]:
    """Trains `model` in place; the number of epochs it took and the metrics' means over the last.

    Ends early once the policy is `max_kl_per_token` away from the proximal one, on an epoch's mean.
    Raises DivergedError.
    """
    return _Epochs(model, rows, stored, config, log, progress).run(order_seed)


class _Epochs:
    """The epochs over one stored round; holds what every step needs."""

    def __init__(
        self,
        model: ActorCritic,
        rows: TrainingSet,
        stored: StoredRound,
        config: TrainingConfig,
        log: MetricsLog,
        progress: Progress,
    ) -> None:
        self._model, self._rows, self._stored = model, rows, stored
        self._config, self._log, self._progress = config, log, progress
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        head = list(model.value_head.parameters())
        trunk = [p for p in model.policy.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": trunk, "lr": config.learning_rate},
                {"params": head, "lr": config.critic_learning_rate},
            ],
            betas=config.adam_betas,
            eps=_ADAM_EPSILON,
            weight_decay=0.0,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / max(1, config.warmup_steps))
        )
        _, _, spread = ppo.whiten(stored.returns, stored.mask)
        self._value_clip = config.value_clip * float(spread)

    def run(self, order_seed: tuple[int, int]) -> tuple[int, dict[str, float]]:
        """All epochs, fewer when the policy has gone far enough; their number, the last's means."""
        count, size = len(self._rows.rollout_ids), self._config.minibatch_size
        total = self._config.epochs * math.ceil(count / size)
        step, means = 0, {}
        for epoch in range(1, self._config.epochs + 1):
            seen: list[dict[str, float]] = []
            for minibatch in _minibatches(count, size, (*order_seed, epoch)):
                metrics = self._step(minibatch, is_first=step == 0)
                step += 1
                seen.append(metrics)
                self._log.add(metrics, step=step, epoch=epoch)
                self._progress(step, total, metrics)
            means = {name: float(np.mean([m[name] for m in seen])) for name in seen[0]}
            if means["k3"] > self._config.max_kl_per_token:
                break
        self._progress(step, step, means)
        return epoch, means

    def _step(self, minibatch: list[int], *, is_first: bool) -> dict[str, float]:
        """One optimizer step; the gradient does not depend on how micro-batches are cut."""
        rows, config = self._rows, self._config
        batches = token_batches(
            rows.prompt_ids,
            rows.completion_ids,
            minibatch,
            micro_batch_tokens=config.micro_batch_tokens,
            device=self._model.device,
        )
        tokens = float(self._stored.mask[minibatch].sum())
        self._optimizer.zero_grad()
        parts = [self._backward(batch, tokens) for batch in batches]
        metrics = {name: sum(part[name] for part in parts) for name in parts[0]}
        metrics["ratio_max"] = max(part["ratio_max"] for part in parts)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm)
        metrics["grad_norm"] = float(norm)
        self._refuse_divergence(metrics, minibatch, is_first=is_first)
        self._optimizer.step()
        self._schedule.step()
        return metrics

    def _backward(self, batch: TokenBatch, token_count: float) -> dict[str, float]:
        """Adds the gradient of one micro-batch; its share of the minibatch's metrics."""
        config, stored = self._config, self._stored.take(batch)
        scores = self._model.logprobs_and_values(batch)
        policy = ppo.policy_loss(
            scores.logprobs,
            stored.proximal,
            stored.advantages,
            stored.weights,
            stored.mask,
            clip_ratio=config.clip_ratio,
            dual_clip=config.dual_clip,
            token_count=token_count,
        )
        value = ppo.value_loss(
            scores.values,
            stored.values,
            stored.returns,
            stored.mask,
            clip=self._value_clip,
            token_count=token_count,
        )
        (policy.loss + config.value_coefficient * value).backward()
        return {
            "loss_policy": float(policy.loss.detach()),
            "loss_value": float(value.detach()),
            "k3": float(policy.k3),
            "clip_fraction": float(policy.clip_fraction),
            "ratio_error": float(policy.ratio_error),
            "ratio_max": float(policy.ratio_max),
            "entropy": float(scores.entropy.sum()) / token_count,
        }

    def _refuse_divergence(
        self, metrics: dict[str, float], minibatch: list[int], *, is_first: bool
    ) -> None:
        ids = [self._rows.rollout_ids[row] for row in minibatch[:3]]
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"{', '.join(bad)} not finite in the minibatch of rollouts {ids}...; lower "
                "training.learning_rate or look at their rewards; nothing was written"
            )
        is_exact = self._model.dtype == torch.float32
        limit = _FIRST_RATIO_FLOAT32 if is_exact else _FIRST_RATIO_BFLOAT16
        if is_first and metrics["ratio_error"] > limit:
            raise DivergedError(
                f"before any step the policy differs from itself: mean |ratio - 1| is "
                f"{metrics['ratio_error']:.2g}, allowed {limit:g}, for rollouts {ids}...; is there "
                "dropout in the model? Nothing was written"
            )


def _minibatches(count: int, size: int, seed: tuple[int, int, int]) -> Iterator[list[int]]:
    """The rows 0..count-1 in an order of this epoch; a last, smaller minibatch is kept."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]
