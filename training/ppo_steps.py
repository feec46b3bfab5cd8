"""The epochs of PPO over one stored round: minibatches, micro-batches, optimizer steps, early stop.

Adam starts anew each round: at beta2 .95 its memory is twenty steps, and carrying it would triple a
policy's size. Not here: what is computed once a round (stored_round.py), the points of resume
(checkpoint.py), the trained policy's files (ppo_trainer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training import ppo
from training.actor_critic import ActorCritic
from training.batches import TokenBatch, token_batches
from training.checkpoint import Checkpoints, Position
from training.config import TrainingConfig
from training.dataset import TrainingError
from training.stored_round import PreparedRound
from training.training_log import MetricsLog

Progress = Callable[[int, int, dict[str, float]], None]
_ADAM_EPSILON = 1e-5  # as in OpenAI's PPO; 1e-8 lets rare tokens' first steps be full ones
# Mean |ratio - 1| of the first minibatch, before any step: in float32 nothing but rounding.
_FIRST_RATIO_FLOAT32, _FIRST_RATIO_BFLOAT16 = 1e-3, 0.02


class DivergedError(TrainingError):
    """Loss or gradient is not finite, or the first ratio is not 1; nothing was written."""


def train_epochs(
    model: ActorCritic,
    prepared: PreparedRound,
    config: TrainingConfig,
    log: MetricsLog,
    checkpoints: Checkpoints,
    *,
    order_seed: tuple[int, int],
    progress: Progress,
) -> tuple[int, dict[str, float]]:
    """Trains `model` in place; the number of epochs it took and the metrics' means over the last.

    Goes on from the last of `checkpoints`. Ends early once the policy is `max_kl_per_token` away
    from the proximal one, on an epoch's mean. Raises DivergedError.
    """
    return _Epochs(model, prepared, config, log, checkpoints, progress).run(order_seed)


class _Epochs:
    """The epochs over one stored round; holds what every step needs."""

    def __init__(
        self,
        model: ActorCritic,
        prepared: PreparedRound,
        config: TrainingConfig,
        log: MetricsLog,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self._model, self._rows, self._stored = model, prepared.rows, prepared.stored
        self._config, self._log, self._progress = config, log, progress
        self._checkpoints = checkpoints
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        head = {id(p) for p in model.value_head.parameters()}
        parameters = list(self._trained.values())
        self._optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in parameters if id(p) not in head],
                    "lr": config.learning_rate,
                },
                {
                    "params": [p for p in parameters if id(p) in head],
                    "lr": config.critic_learning_rate,
                },
            ],
            betas=config.adam_betas,
            eps=_ADAM_EPSILON,
            weight_decay=0.0,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / max(1, config.warmup_steps))
        )
        _, _, spread = ppo.whiten(self._stored.returns, self._stored.mask)
        self._value_clip = config.value_clip * float(spread)
        self._value_coefficient = config.value_coefficient if config.advantage == "gae" else 0.0

    def run(self, order_seed: tuple[int, int]) -> tuple[int, dict[str, float]]:
        """All epochs, fewer when the policy has gone far enough; their number, the last's means."""
        count, size = len(self._rows.rollout_ids), self._config.minibatch_size
        total = self._config.epochs * math.ceil(count / size)
        at = self._resume()
        step, place, seen = at.step, at.place, at.seen
        for epoch in range(at.epoch, self._config.epochs + 1):
            minibatches = _minibatches(count, size, (*order_seed, epoch))
            for number, minibatch in enumerate(minibatches[place:], place + 1):
                metrics = self._step(minibatch, is_first=step == 0)
                step += 1
                seen.append(metrics)
                self._log.add(metrics, step=step, epoch=epoch)
                self._keep(Position(epoch, number, step, seen))
                self._progress(step, total, metrics)
            means = {name: float(np.mean([m[name] for m in seen])) for name in seen[0]}
            if means["k3"] > self._config.max_kl_per_token:
                break
            place, seen = 0, []
        self._progress(step, step, means)
        return epoch, means

    def _resume(self) -> Position:
        found = self._checkpoints.restore(self._trained, self._optimizer, self._schedule)
        if found is None:
            return Position(1, 0, 0, [])
        position, metrics = found
        self._log.restore(metrics)
        return position

    def _keep(self, position: Position) -> None:
        every = self._config.checkpoint_steps
        if every and position.step % every == 0:
            self._checkpoints.save(
                position, self._trained, self._optimizer, self._schedule, self._log.table()
            )

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
        worst = max(parts, key=lambda part: part.ratio_max)
        metrics = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums} | {
            "ratio_max": worst.ratio_max
        }
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), config.max_grad_norm)
        metrics["grad_norm"] = float(norm)
        self._refuse_divergence(metrics, minibatch, worst.ratio_row, is_first=is_first)
        self._optimizer.step()
        self._schedule.step()
        return metrics

    def _backward(self, batch: TokenBatch, token_count: float) -> _Part:
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
        loss = policy.loss + self._value_coefficient * value
        if config.kl_loss_coefficient:
            kl = ppo.kl_estimate(scores.logprobs, stored.reference, config.kl_loss_estimator)
            priced = (kl * stored.weights * stored.mask).sum() / token_count
            loss = loss + config.kl_loss_coefficient * priced
        loss.backward()
        sums = {
            "loss_policy": policy.loss.detach(),
            "loss_value": value.detach(),
            "k3": policy.k3,
            "clip_fraction": policy.clip_fraction,
            "ratio_error": policy.ratio_error,
            "entropy": scores.entropy.sum() / token_count,
        }
        # One copy for all: on a GPU each of them would wait for the device.
        numbers = torch.stack([x.float() for x in (*sums.values(), policy.ratio_max)]).tolist()
        return _Part(
            sums=dict(zip(sums, numbers, strict=False)),
            ratio_max=numbers[-1],
            ratio_row=int(batch.rows[int(policy.ratio_row)]),
        )

    def _refuse_divergence(
        self, metrics: dict[str, float], minibatch: list[int], worst: int, *, is_first: bool
    ) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"{', '.join(bad)} not finite in the minibatch of rollouts "
                f"{self._not_finite(minibatch)}...; lower training.learning_rate or look at their "
                "rewards; nothing was written"
            )
        ids = [self._rows.rollout_ids[row] for row in minibatch[:3]]
        is_exact = self._model.dtype == torch.float32
        limit = _FIRST_RATIO_FLOAT32 if is_exact else _FIRST_RATIO_BFLOAT16
        if is_first and metrics["ratio_error"] > limit:
            raise DivergedError(
                f"before any step the policy differs from itself: mean |ratio - 1| is "
                f"{metrics['ratio_error']:.2g}, allowed {limit:g}, for rollouts {ids}...; is there "
                "dropout in the model? Nothing was written"
            )
        if metrics["ratio_max"] > self._config.max_ratio:
            raise DivergedError(
                f"a token's ratio to the proximal policy is {metrics['ratio_max']:.3g}, over "
                f"training.max_ratio {self._config.max_ratio:g}, in rollout "
                f"{self._rows.rollout_ids[worst]}: the policy runs away; lower "
                "training.learning_rate or training.epochs. Nothing was written"
            )

    def _not_finite(self, minibatch: list[int]) -> list[str]:
        """At most three rollouts with such a reward, else such returns, else any of these."""
        # One such reward is in every advantage, by their common mean: it may be in another batch.
        rewards = np.flatnonzero(~np.isfinite(self._rows.rewards)).tolist()
        returns = [row for row in minibatch if not self._stored.returns[row].isfinite().all()]
        return [self._rows.rollout_ids[row] for row in (rewards or returns or minibatch)[:3]]


@dataclass(frozen=True)
class _Part:
    """A micro-batch: what adds up over a minibatch, and its largest ratio with the row."""

    sums: dict[str, float]
    ratio_max: float
    ratio_row: int


def _minibatches(count: int, size: int, seed: tuple[int, int, int]) -> list[list[int]]:
    """The rows 0..count-1 in an order of this epoch; a last, smaller minibatch is kept."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    return [order[start : start + size] for start in range(0, count, size)]
