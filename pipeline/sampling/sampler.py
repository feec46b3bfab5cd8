"""Sampling completions with the log-probs of their tokens: what every sampling engine offers.

Token ids in, token ids out: text is derived from ids, never the other way round. Engines sample
from the model's own distribution (temperature 1, nothing cut off), because only those log-probs can
be corrected in PPO. Not here: prompts, chat templates, rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from warehouse.errors import RoundhouseError


@dataclass(frozen=True)
class Sampled:
    """One completion: token ids (the end token included where one was sampled) and, aligned with
    them, the log-prob of each under the sampling policy, in nats, float32.
    """

    token_ids: list[int]
    logprobs: npt.NDArray[np.float32]
    finish_reason: str


class PromptFailed(RoundhouseError, ValueError):
    """The engine refused one prompt; the others of its batch are not touched."""


class Sampler(Protocol):
    """A loaded policy that samples. `name`, `version`, `dtype`, `device` go into every row."""

    name: str
    version: str
    dtype: str
    device: str
    max_model_len: int

    def sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        samples: int,
        max_tokens: int,
        progress: Callable[[int], None],
    ) -> list[list[Sampled] | PromptFailed]:
        """`samples` completions per prompt; sample i of a prompt is drawn with seed + i, whatever
        else is in the batch. `progress` gets the number of completions finished since its last
        call. A prompt that the engine refuses becomes PromptFailed in its place.
        """
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


def sample_by_length(
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    samples: int,
    sample_batch: Callable[[list[tuple[list[int], int]]], list[Sampled]],
    progress: Callable[[int], None],
    *,
    batch: int = 64,
) -> list[list[Sampled] | PromptFailed]:
    """Sampler.sample by way of batches of (prompt, seed) whose prompts are of similar length."""
    jobs = [(ids, seed + i) for ids, seed in zip(prompts, seeds, strict=True)
            for i in range(samples)]  # fmt: skip
    order = sorted(range(len(jobs)), key=lambda j: len(jobs[j][0]))
    done: dict[int, Sampled] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        done.update(zip(chosen, sample_batch([jobs[j] for j in chosen]), strict=True))
        progress(len(chosen))
    return [[done[p * samples + i] for i in range(samples)] for p in range(len(prompts))]
