"""Batches of similar length under a token budget: what every forward pass over many texts needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.errors import Misconfigured
from warehouse.files import text_sha256

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


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """Hash of a fast tokenizer and its chat template; None for those that are not files of text."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    return text_sha256(tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template))


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The marks that the tokenizer puts before and after a text, as token ids."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for at in range(len(framed) - len(plain) + 1):
        if framed[at : at + len(plain)] == plain:
            return framed[:at], framed[at + len(plain) :]
    raise Misconfigured(f"the tokenizer frames {plain} as {framed}; the text is not in it")


def set_padding(tokenizer: Any, model_config: Any) -> int:
    """The padding id; a decoder finds its last token by it, so the model's config gets it too."""
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = model_config.pad_token_id
    if pad is None:
        raise Misconfigured(
            f"{model_config.model_type}: neither tokenizer nor model has a padding token; "
            "set pad_token in the model's tokenizer_config.json"
        )
    model_config.pad_token_id = pad
    return int(pad)
