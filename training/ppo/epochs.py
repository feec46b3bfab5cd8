"""The epochs of PPO over one stored round: minibatches, micro-batches, optimizer steps, early stop.

Adam starts anew each round: at beta2 .95 its memory is twenty steps, and carrying it would triple a
policy's size. Not here: what is computed once a round (stored_round.py), the points of resume
(checkpoint.py), the trained policy's files (trainer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.policy.actor_critic import ActorCritic
from training.policy.batches import TokenBatch, token_batches
from training.ppo import formulas as ppo
from training.ppo.checkpoint import Checkpoints, Position
from training.ppo.config import TrainingConfig
from training.ppo.guards import first_ratio_error, refuse_divergence
from training.ppo.log import MetricsLog
from training.ppo.parallel import Parallel
from training.ppo.stored_round import PreparedRound

Progress = Callable[[int, int, dict[str, float]], None]
_ADAM_EPSILON = 1e-5  # as in OpenAI's PPO; 1e-8 lets rare tokens' first steps be full ones


def train_epochs(
    model: ActorCritic,
    prepared: PreparedRound,
    config: TrainingConfig,
    log: MetricsLog,
    checkpoints: Checkpoints,
    parallel: Parallel,
    *,
    order_seed: tuple[int, int],
    progress: Progress,
) -> tuple[int, dict[str, float], nn.Module]:
    """Trains `model`; the number of epochs, the metrics' means over the last, the trained module.

    Goes on from the last of `checkpoints`. Ends early once the policy is `max_kl_per_token` away
    from the proximal one, on an epoch's mean. Raises DivergedError.
    """
    epochs = _Epochs(model, prepared, config, log, checkpoints, parallel, progress)
    return *epochs.run(order_seed), epochs.trained


class _Epochs:
    """The epochs over one stored round; holds what every step needs."""

    def __init__(
        self,
        model: ActorCritic,
        prepared: PreparedRound,
        config: TrainingConfig,
        log: MetricsLog,
        checkpoints: Checkpoints,
        parallel: Parallel,
        progress: Progress,
    ) -> None:
        self._rows, self._stored = prepared.rows, prepared.stored
        self._device, self._first_ratio_error = model.device, first_ratio_error(model.dtype)
        self._config, self._log, self._progress = config, log, progress
        self._checkpoints, self._parallel = checkpoints, parallel
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
        self._position = self._resume()  # before the weights are spread over processes
        self.trained, self._stepped = parallel.prepare(model, self._optimizer)

    def run(self, order_seed: tuple[int, int]) -> tuple[int, dict[str, float]]:
        """All epochs, fewer when the policy has gone far enough; their number, the last's means."""
        count, size = len(self._rows.rollout_ids), self._config.minibatch_size
        total = self._config.epochs * math.ceil(count / size)
        at = self._position
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
        every = 0 if self._parallel.is_sharded else self._config.checkpoint_steps
        if every and self._parallel.is_main and position.step % every == 0:
            self._checkpoints.save(
                position, self._trained, self._optimizer, self._schedule, self._log.table()
            )

    def _step(self, minibatch: list[int], *, is_first: bool) -> dict[str, float]:
        """One optimizer step; the gradient does not depend on how micro-batches are cut."""
        rows, config, parallel = self._rows, self._config, self._parallel
        tokens = float(self._stored.mask[minibatch].sum())
        padded = sum(len(rows.prompt_ids[i]) + len(rows.completion_ids[i]) for i in minibatch)
        share = -(-padded // parallel.world)  # so that every process has something to do
        batches = token_batches(
            rows.prompt_ids,
            rows.completion_ids,
            minibatch,
            micro_batch_tokens=min(config.micro_batch_tokens, max(share, 1))
            if parallel.world > 1
            else config.micro_batch_tokens,
            device=self._device,
        )
        self._stepped.zero_grad()
        mine = [self._backward(batch, tokens, weight) for batch, weight in parallel.share(batches)]
        parts = parallel.gather(mine)
        worst = max(parts, key=lambda part: part.ratio_max)
        metrics = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
        metrics["ratio_max"] = worst.ratio_max
        metrics["grad_norm"] = parallel.clip(self.trained, config.max_grad_norm)
        refuse_divergence(
            metrics,
            rows,
            self._stored.returns,
            minibatch,
            worst.ratio_row,
            max_ratio=config.max_ratio,
            first_ratio_error=self._first_ratio_error if is_first else None,
        )
        self._stepped.step()
        self._schedule.step()
        return metrics

    def _backward(self, batch: TokenBatch, token_count: float, weight: float) -> _Part:
        """Adds the gradient of one micro-batch; its share of the minibatch's metrics."""
        config, stored = self._config, self._stored.take(batch)
        scores = self.trained(batch)
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
        # Wrappers average over processes what has to add up.
        (loss * (weight * self._parallel.world)).backward()
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
            sums={name: weight * x for name, x in zip(sums, numbers, strict=False)},
            ratio_max=numbers[-1],
            ratio_row=int(batch.rows[int(policy.ratio_row)]),
        )


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
