"""Token ids -> right-padded tensors: micro-batches of similar length under a token budget.

Which rows there are is the business of ppo/dataset.py; what happens to them, of the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Padding costs as much as tokens, another batch costs a fixed price: so a batch is cut where it
# would be a fifth padding, unless it is small.
_PADDED_SHARE, _WORTHWHILE_TOKENS = 1.2, 512

Ids = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenBatch:
    """b rows of prompt + completion, padded on the right to l tokens, completions to t.

    `rows` [b] are positions in the caller's lists; `input_ids`, `attention_mask` [b, l]; `mask`
    [b, t] float, 1 at the tokens of the completion. `source` and `targets` [n] list these n tokens
    row by row: the position in the flattened [b * l] whose state predicts it, and its id.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    source: Tensor
    targets: Tensor


def token_batches(
    prompt_ids: Sequence[Ids],
    completion_ids: Sequence[Ids],
    rows: Sequence[int],
    *,
    micro_batch_tokens: int,
    device: torch.device,
) -> list[TokenBatch]:
    """The given rows as batches of at most `micro_batch_tokens` padded tokens (or one row).

    Rows of similar length stand together. Completions may not be empty.
    """
    lengths = {row: len(prompt_ids[row]) + len(completion_ids[row]) for row in rows}
    order = sorted(rows, key=lengths.__getitem__)
    batches: list[list[int]] = []
    tokens = padded = 0
    for row in order:
        # Sorted: this row is the widest of its batch, and all others are padded up to it.
        tokens += lengths[row]
        padded = lengths[row] * (len(batches[-1]) + 1) if batches else 0
        is_wasteful = padded > _PADDED_SHARE * tokens and tokens > _WORTHWHILE_TOKENS
        if not batches or padded > micro_batch_tokens or is_wasteful:
            batches.append([])
            tokens = lengths[row]
        batches[-1].append(row)
    return [_collate(prompt_ids, completion_ids, chosen, device) for chosen in batches]


def pad(rows: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """Ragged rows as a float32 tensor [b, t], 0 at padding."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.float32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return torch.from_numpy(padded)


def _collate(
    prompt_ids: Sequence[Ids], completion_ids: Sequence[Ids], rows: list[int], device: torch.device
) -> TokenBatch:
    prompts = np.array([len(prompt_ids[row]) for row in rows])
    completions = np.array([len(completion_ids[row]) for row in rows])
    width, longest = int((prompts + completions).max()), int(completions.max())
    # The pad id is never read: masks go by length, for many tokenizers pad with the end token.
    ids = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : prompts[place]] = prompt_ids[row]
        ids[place, prompts[place] : prompts[place] + completions[place]] = completion_ids[row]
    attention = np.arange(width) < (prompts + completions)[:, None]
    mask = np.arange(longest) < completions[:, None]
    # The state at position p predicts the token at p + 1.
    before = (prompts - 1)[:, None] + np.arange(longest)
    source = (np.arange(len(rows))[:, None] * width + before)[mask]

    def tensor(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return TokenBatch(
        rows=torch.tensor(rows),
        input_ids=tensor(ids),
        attention_mask=tensor(attention.astype(np.int64)),
        mask=tensor(mask.astype(np.float32)),
        source=tensor(source),
        targets=tensor(ids.reshape(-1)[source + 1]),
    )
