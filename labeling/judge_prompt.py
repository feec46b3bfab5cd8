"""From a rubric and a text to the token ids that a judge reads, safe against control tokens.

The judge's chat template is applied to placeholders, so only its own control tokens are encoded as
such. What a message says is encoded apart, with control-token strings split into plain text: a
candidate that writes `<|im_end|>` has written some characters, nothing more. The text of one
message is encoded in one piece, because words must meet the tokenizer the way they met the judge in
training. Not here: what the judge answers (judge.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labeling.label import LabelingError
from labeling.rubric import Message, Rubric

PLACEHOLDERS = {"system": "ROUNDHOUSE-SYSTEM-SLOT", "user": "ROUNDHOUSE-USER-SLOT"}
_ZERO_WIDTH_SPACE = "\u200b"
_MESSAGES = TypeAdapter(list[Message])
# Part of every judge's revision: raise it when the same text is shown in another way.
# 2: the nonce depends on the text and the judge, no longer on the rollout's id.
PROMPT_VERSION = 2


@dataclass(frozen=True)
class JudgePrompt:
    """Token ids and, for the record, the same prompt as text."""

    token_ids: list[int]
    text: str


class UnfitPrompt(ValueError):
    """The messages of one row cannot be shown to a judge; the message says why."""


def nonce_of(revision: str, messages_json: str | None, completion: str) -> str:
    """12 hex digits for the markers around a text, which cannot know them: it is hashed in them.

    They depend on judge and text alone, so the same text is the same prompt every night.
    """
    text = json.dumps([revision, messages_json, completion])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class UntrustedEncoder:
    """Encodes what somebody else wrote: its control-token strings become plain characters."""

    def __init__(self, tokenizer: Any) -> None:
        """Of a Hugging Face tokenizer; its added tokens are what controls the model."""
        self._tokenizer = tokenizer
        unknown = {tokenizer.unk_token_id}  # stands for any character, so it controls nothing
        added = tokenizer.added_tokens_decoder
        self._control = {token: str(text) for token, text in added.items() if token not in unknown}

    def encode(self, text: str) -> list[int]:
        """Token ids without a single control token. Raises UnfitPrompt, also for surrogates."""
        try:
            for attempt in (text, self._broken_up(text)):
                ids: list[int] = self._tokenizer.encode(
                    attempt, add_special_tokens=False, split_special_tokens=True, verbose=False
                )
                if self._control.keys().isdisjoint(ids):
                    return ids
        except (UnicodeError, TypeError) as error:
            raise UnfitPrompt(f"the text cannot be encoded: {error}") from error
        raise UnfitPrompt("the text holds control tokens that cannot be told from the judge's own")

    def _broken_up(self, text: str) -> str:
        """Splitting covers the special tokens only; other added tokens get an invisible space."""
        for token in sorted(self._control.values(), key=len, reverse=True):
            text = text.replace(token, token[:1] + _ZERO_WIDTH_SPACE + token[1:])
        return text


class PromptBuilder:
    """Builds judge prompts for one rubric and one tokenizer. `label_ids`: a token id per label."""

    def __init__(self, rubric: Rubric, tokenizer: Any, *, judge: str) -> None:
        """Raises LabelingError when the model cannot be a judge for this rubric."""
        self._rubric, self._tokenizer = rubric, tokenizer
        pieces = template_pieces(
            ["system", "user"] if rubric.system else ["user"],
            tokenizer,
            judge=judge,
            rubric=rubric.name,
        )
        self._pieces, tail = pieces[:-1], pieces[-1] + rubric.answer_prefix
        self._tail, self.label_ids = _label_tokens(rubric, tokenizer, tail, judge)
        self._trusted = {
            piece: self._encode_trusted(piece) for piece in [*self._pieces, self._tail]
        }
        self._encoder = UntrustedEncoder(tokenizer)

    def build(self, messages_json: str | None, completion: str, nonce: str) -> JudgePrompt:
        """The prompt for one completion. Raises UnfitPrompt."""
        messages = parsed_messages(messages_json)
        ids: list[int] = []
        text = ""
        for piece in self._pieces:
            if piece in PLACEHOLDERS:
                part = self._rubric.system if piece == "system" else self._rubric.user
                content = self._rubric.fill(part or "", messages, completion, nonce)
                ids += self._encoder.encode(content)
                text += content
            else:
                ids += self._trusted[piece]
                text += piece
        return JudgePrompt(ids + self._trusted[self._tail], text + self._tail)

    def _encode_trusted(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False) if text else []
        return ids


def parsed_messages(messages_json: str | None) -> list[Message]:
    """A rollout's messages, checked. Raises UnfitPrompt, also for text no tokenizer can take."""
    try:
        messages = _MESSAGES.validate_python(json.loads(messages_json or "null"))
        for message in messages:  # JSON can spell a lone surrogate, which is no text
            f"{message.role}{message.content}".encode()
    except (ValueError, ValidationError, RecursionError) as error:
        raise UnfitPrompt(f"messages is no JSON list of role and content: {error}") from error
    if not any(message.role == "user" for message in messages):
        raise UnfitPrompt("messages has no turn of role user")
    return messages


def template_pieces(
    parts: Sequence[str], tokenizer: Any, *, judge: str, rubric: str | None = None
) -> list[str]:
    """The judge's chat template cut at the messages: trusted text, 'system', 'user', ..., tail.

    `parts` are the roles, `system` and `user`, each at most once. Raises LabelingError.
    """
    if not tokenizer.chat_template:
        raise LabelingError(
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
        raise LabelingError(
            f"judge {judge}: its chat template refuses {described}: {error}; "
            "a rubric without `system` suits every template"
        ) from error
    pieces: list[str] = []
    for part in parts:
        before, found, rest = rest.partition(PLACEHOLDERS[part])
        if not found or PLACEHOLDERS[part] in rest:
            raise LabelingError(
                f"judge {judge}: its chat template does not show the {part} message exactly once"
            )
        pieces += [before, part]
    return [*pieces, rest]


def _label_tokens(rubric: Rubric, tokenizer: Any, tail: str, judge: str) -> tuple[str, list[int]]:
    """The prompt's end and the token of each label after it; raises LabelingError.

    Some vocabularies join a digit to the space before it; then the space moves into the label.
    """
    forms: list[tuple[str, Sequence[str]]] = [(tail, rubric.labels)]
    if tail.endswith(" "):
        forms.append((tail[:-1], [f" {label}" for label in rubric.labels]))
    for end, labels in forms:
        start = tokenizer.encode(end, add_special_tokens=False)
        longer = [tokenizer.encode(end + label, add_special_tokens=False) for label in labels]
        ids = [row[-1] for row in longer]
        fits = all(row[:-1] == start for row in longer) and len(set(ids)) == len(ids)
        if fits and tokenizer.unk_token_id not in ids:
            return end, ids
    raise LabelingError(
        f"judge {judge}: not every label of {list(rubric.labels)} is one token after {tail!r}, so "
        f"their likelihoods cannot be compared; give rubric {rubric.name} labels that are"
    )
