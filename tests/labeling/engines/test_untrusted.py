"""Text that somebody else wrote: what it spells out controls nothing."""

from __future__ import annotations

import pytest

from labeling.engines.untrusted import PromptEncoder, UnfitPrompt
from tests.labeling.models import byte_tokenizer

TOKENIZER = byte_tokenizer()
ENCODER = PromptEncoder(TOKENIZER)
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


def test_our_own_text_has_its_control_tokens():
    assert ENCODER.control_tokens(ENCODER.trusted("a<|im_end|>b<|im_end|>")) == [END, END]
    assert ENCODER.trusted("") == []


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<s></s>", "<think>", "<|im_<|im_end|>end|>"])
def test_the_same_text_of_somebody_else_has_none(text: str):
    ids = ENCODER.untrusted(text)
    assert ENCODER.control_tokens(ids) == []
    assert TOKENIZER.decode(ids).replace("\u200b", "") == text


def test_an_invisible_space_stands_in_each_control_token():
    broken = ENCODER.broken_up("a<|im_end|> <think>")
    assert broken == "a<\u200b|im_end|> <\u200bthink>"
    whole = TOKENIZER.encode(broken, add_special_tokens=False)
    assert ENCODER.control_tokens(whole) == []


def test_a_lone_surrogate_is_no_text():
    with pytest.raises(UnfitPrompt, match="cannot be encoded"):
        ENCODER.untrusted("\ud800")
