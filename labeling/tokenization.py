"""What a labeler must know of a model's tokenizer: its identity, its marks, its padding.

Not here: how judge prompts are put together (judge_prompt.py).
"""

from __future__ import annotations

import hashlib
from typing import Any

from labeling.label import LabelingError


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """Hash of a fast tokenizer and its chat template; None for those that are not files of text."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    text = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    return hashlib.sha256(text.encode()).hexdigest()


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The marks that the tokenizer puts before and after a text, as token ids."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for at in range(len(framed) - len(plain) + 1):
        if framed[at : at + len(plain)] == plain:
            return framed[:at], framed[at + len(plain) :]
    raise LabelingError(f"the tokenizer frames {plain} as {framed}; the text is not in it")


def set_padding(tokenizer: Any, model_config: Any) -> int:
    """The padding id; a decoder finds its last token by it, so the model's config gets it too."""
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = model_config.pad_token_id
    if pad is None:
        raise LabelingError(
            f"{model_config.model_type}: neither tokenizer nor model has a padding token; "
            "set pad_token in the model's tokenizer_config.json"
        )
    model_config.pad_token_id = pad
    return int(pad)
