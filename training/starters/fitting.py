"""How the starter models are trained on a CPU: batches by length, two losses, one loop.

Not a general training loop: no evaluation, no checkpoints; a starter is trained in a minute or
built again. PPO and the preference trainers have their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedModel

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
IGNORED = -100  # the label that cross entropy skips
# Keeps the classifiers' logits graded (about +-3.5) where plain cross entropy drives them apart.
LABEL_SMOOTHING = 0.05
# PyTorch splits some sums by threads. Another number gives other last bits, and after thousands of
# steps another classifier: what a text scores would hang on the machine and on OMP_NUM_THREADS.
THREADS = 2


@dataclass(frozen=True)
class Example:
    """One training text as token ids, and what is to be predicted: per token, or one class."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Seed torch, use as many threads wherever we are, and leave the process as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def length_batches(
    examples: Sequence[Example], pad: int, epochs: int, tokens: int, seed: int
) -> list[Batch]:
    """Token ids, attention mask [rows, time] and labels, by length, about `tokens` per batch."""
    rng = random.Random(f"batches {seed}")
    batches: list[Batch] = []
    for _ in range(epochs):
        order = sorted(examples, key=lambda example: len(example.token_ids) + rng.random())
        epoch, start = [], 0
        while start < len(order):
            # The rows are sorted: those that follow are at least as long as this one.
            rows = order[start : start + max(1, tokens // len(order[start].token_ids))]
            epoch.append(_collate(rows, pad))
            start += len(rows)
        rng.shuffle(epoch)
        batches += epoch
    return batches


def _collate(rows: Sequence[Example], pad: int) -> Batch:
    def padded(column: list[tuple[int, ...]], filler: int) -> torch.Tensor:
        width = max(len(values) for values in column)
        return torch.tensor([[*values, *[filler] * (width - len(values))] for values in column])

    ids = padded([row.token_ids for row in rows], pad)
    lengths = torch.tensor([[len(row.token_ids)] for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths).long()
    return ids, mask, padded([row.labels for row in rows], IGNORED)


def next_token_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Cross entropy of the next tokens that are labelled; all arguments [rows, time].

    The vocabulary is the costly part: only positions with a label are projected onto it.
    """
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORED
    return F.cross_entropy(model.lm_head(hidden[wanted]).float(), labels[:, 1:][wanted])


def class_loss(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Smoothed cross entropy of two classes; ids and mask [rows, time], labels [rows, 1]."""
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    return F.cross_entropy(logits, labels[:, 0], label_smoothing=LABEL_SMOOTHING)


def fit(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    learning_rate: float,
    loss_of: Callable[..., torch.Tensor],
) -> Iterator[int]:
    """AdamW with a short warm-up and a cosine down to 5 %, one step per batch; yields each step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.95), fused=True
    )
    warmup = max(1, min(60, len(batches) // 10))

    def scale(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        return min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    # Without the instruction bfloat16 is emulated and several times slower than float32.
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    model.train()
    for step, (ids, mask, labels) in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16):
            loss = loss_of(model, ids, mask, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step + 1
    model.eval()
