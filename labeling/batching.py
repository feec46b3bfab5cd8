"""Batches of similar length under a token budget: what every forward pass over many texts needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# (ids, mask: int64 [rows, width]) -> logits [rows, labels]
Forward = Callable[[Ids, Ids], Floats]


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices into `lengths`, longest first, such that rows x longest <= budget in each batch.

    A text longer than the budget is a batch of its own. Longest first, so that too little memory
    shows at once and not after an hour.
    """
    batch: list[int] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * width > budget:
            yield batch
            batch = []
        if not batch:
            width = max(1, lengths[index])
        batch.append(index)
    if batch:
        yield batch


def pad_right(rows: Sequence[Sequence[int]], filler: int) -> tuple[Ids, Ids]:
    """Rows of token ids padded to one width, and their attention mask, both int64 [rows, width]."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, filler, np.int64)
    padded[mask] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return padded, mask.astype(np.int64)
