"""Log-probs of stored completions under a policy, as many as there are.

Not here: one batch of them (actor_critic.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training.policy.actor_critic import ActorCritic
from training.policy.batches import Ids, token_batches


def sequence_logprobs(
    model: ActorCritic | Path | str,
    prompt_ids: Sequence[Ids],
    completion_ids: Sequence[Ids],
    *,
    device: str = "auto",
    dtype: str = "auto",
    micro_batch_tokens: int = 8192,
) -> list[npt.NDArray[np.float32]]:
    """Log-prob in nats of every completion token under a policy (a model or its folder).

    One array per row, as long as its completion. `device` and `dtype` are for a folder.
    """
    if not isinstance(model, ActorCritic):
        model = ActorCritic.load(model, device=device, dtype=dtype)
    found: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(completion_ids)
    batches = token_batches(
        prompt_ids,
        completion_ids,
        [row for row, ids in enumerate(completion_ids) if len(ids)],
        micro_batch_tokens=micro_batch_tokens,
        device=model.device,
    )
    for batch in batches:
        with torch.no_grad():
            logprobs = model.logprobs(batch).cpu().numpy()
        for row, values in zip(batch.rows.tolist(), logprobs, strict=True):
            found[row] = values[: len(completion_ids[row])]
    return found
