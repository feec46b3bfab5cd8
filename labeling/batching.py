"""Batches of similar length under a token budget: what every forward pass over many texts needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


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


def pad_right(
    rows: Sequence[Sequence[int]], filler: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of token ids padded to one width, and their attention mask, both [rows, width]."""
    width = max(len(row) for row in rows)
    padded = [[*row, *[filler] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return padded, mask
