"""Text that somebody else wrote as token ids, and a chat template cut at its messages.

The one place where such text is kept from controlling a model: for judges, for engines that take
messages, for reward models. Not here: what the messages say (judges/, labelers/reward_prompt.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labeling.errors import Misconfigured
from warehouse.errors import RoundhouseError

PLACEHOLDERS = {"system": "ROUNDHOUSE-SYSTEM-SLOT", "user": "ROUNDHOUSE-USER-SLOT"}
_ZERO_WIDTH_SPACE = "\u200b"


class UnfitPrompt(RoundhouseError, ValueError):
    """The messages of one row cannot be shown to a model; the message says why."""


class PromptEncoder:
    """Token ids of one tokenizer: of our own text, and of what somebody else wrote.

    What somebody else wrote controls nothing: its control-token strings become plain characters.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Of a Hugging Face tokenizer; its added tokens are what controls the model."""
        self._tokenizer = tokenizer
        unknown = {tokenizer.unk_token_id}  # stands for any character, so it controls nothing
        added = tokenizer.added_tokens_decoder
        self._control = {token: str(text) for token, text in added.items() if token not in unknown}
        self._trusted: dict[str, list[int]] = {}

    def trusted(self, text: str) -> list[int]:
        """Token ids of our own text, control tokens included; encoded once."""
        if text not in self._trusted:
            ids = self._tokenizer.encode(text, add_special_tokens=False) if text else []
            self._trusted[text] = ids
        return self._trusted[text]

    def untrusted(self, text: str) -> list[int]:
        """Token ids without a single control token. Raises UnfitPrompt, also for surrogates."""
        try:
            for attempt in (text, self.broken_up(text)):
                ids: list[int] = self._tokenizer.encode(
                    attempt, add_special_tokens=False, split_special_tokens=True, verbose=False
                )
                if not self.control_tokens(ids):
                    return ids
        except (UnicodeError, TypeError) as error:
            raise UnfitPrompt(f"the text cannot be encoded: {error}") from error
        raise UnfitPrompt("the text holds control tokens that cannot be told from the judge's own")

    def broken_up(self, text: str) -> str:
        """The text with an invisible space in each control token that it spells out.

        Splitting, in `untrusted`, covers the special tokens only, not other added ones.
        """
        for token in sorted(self._control.values(), key=len, reverse=True):
            text = text.replace(token, token[:1] + _ZERO_WIDTH_SPACE + token[1:])
        return text

    def control_tokens(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that control the model, in order."""
        return [token for token in ids if token in self._control]


def template_pieces(
    parts: Sequence[str], tokenizer: Any, *, judge: str, rubric: str | None = None
) -> list[str]:
    """The judge's chat template cut at the messages: trusted text, 'system', 'user', ..., tail.

    `parts` are the roles, `system` and `user`, each at most once. Raises Misconfigured.
    """
    if not tokenizer.chat_template:
        raise Misconfigured(
            f"judge {judge}: its tokenizer has no chat template; use an instruction-tuned model"
        )
    messages = [{"role": part, "content": PLACEHOLDERS[part]} for part in parts]
    described = f"rubric {rubric}" if rubric else f"messages of {list(parts)}"
    try:
        # Reasoning models must answer with the label at once; other templates ignore the switch.
        rest = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:
        raise Misconfigured(
            f"judge {judge}: its chat template refuses {described}: {error}; "
            "a rubric without `system` suits every template"
        ) from error
    pieces: list[str] = []
    for part in parts:
        before, found, rest = rest.partition(PLACEHOLDERS[part])
        if not found or PLACEHOLDERS[part] in rest:
            raise Misconfigured(
                f"judge {judge}: its chat template does not show the {part} message exactly once"
            )
        pieces += [before, part]
    return [*pieces, rest]
