"""Sampling completions with the log-probs of their tokens: what every sampling engine offers.

Token ids in, token ids out: text is derived from ids, never the other way round. Engines sample
from the model's own distribution (temperature 1, nothing cut off), because only those log-probs can
be corrected in PPO. Not here: prompts, chat templates, rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from warehouse.errors import RoundhouseError

if TYPE_CHECKING:
    import torch

Job = tuple[list[int], int]  # token ids of a prompt, and the seed of one of its samples
_BATCH = 64


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


class TransformersBatches(ABC):
    """What the samplers on transformers share; each adds how it samples one batch."""

    name = "transformers"

    def __init__(self, model: Any, device: str) -> None:
        import transformers

        self._model = model.to(device).eval()
        self.version = transformers.__version__
        self.device = device
        self.dtype = str(self._model.dtype).removeprefix("torch.")

    def sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        samples: int,
        max_tokens: int,
        progress: Callable[[int], None],
    ) -> list[list[Sampled] | PromptFailed]:
        """Sampler.sample by way of batches of jobs whose prompts are of similar length."""
        jobs = [(ids, seed + i) for ids, seed in zip(prompts, seeds, strict=True)
                for i in range(samples)]  # fmt: skip
        order = sorted(range(len(jobs)), key=lambda j: len(jobs[j][0]))
        done: dict[int, Sampled] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = self._sample_batch([jobs[j] for j in chosen], max_tokens)
            done.update(zip(chosen, batch, strict=True))
            progress(len(chosen))
        return [[done[p * samples + i] for i in range(samples)] for p in range(len(prompts))]

    @abstractmethod
    def _sample_batch(self, jobs: list[Job], max_tokens: int) -> list[Sampled]:
        """One completion for each job, at most `max_tokens` long."""

    def _padded(self, jobs: list[Job], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask of the prompts, [b, longest], on the device."""
        import torch

        width = max(len(prompt) for prompt, _ in jobs)
        ids = torch.zeros(len(jobs), width, dtype=torch.long)
        mask = torch.zeros(len(jobs), width, dtype=torch.long)
        for row, (prompt, _) in enumerate(jobs):
            place = slice(width - len(prompt), width) if left else slice(len(prompt))
            ids[row, place] = torch.tensor(prompt)
            mask[row, place] = 1
        return ids.to(self.device), mask.to(self.device)

    def close(self) -> None:
        """Drops the model."""
        del self._model


def race(logs: torch.Tensor, randoms: list[torch.Generator]) -> torch.Tensor:
    """Log-probs [b, v] with a row's own Gumbel noise (-log of an exponential) added.

    The argmax of a row is a draw from it.
    """
    noise = logs.new_empty(logs.shape)
    for row, random in enumerate(randoms):
        noise[row].exponential_(generator=random)
    return logs - noise.log()
