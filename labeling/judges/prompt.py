"""From a rubric and a text to the token ids that a judge reads, safe against control tokens.

The judge's chat template is applied to placeholders, so only its own control tokens are encoded as
such. What a message says is encoded apart, with control-token strings split into plain text: a
candidate that writes `<|im_end|>` has written some characters, nothing more. The text of one
message is encoded in one piece, because words must meet the tokenizer the way they met the judge in
training. Not here: what the judge answers (likelihood.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from labeling.engines.untrusted import (
    PLACEHOLDERS,
    PromptEncoder,
    UnfitPrompt,
    template_pieces,
)
from labeling.errors import Misconfigured
from labeling.judges.rubric import Message, Principle, Rubric
from labeling.label import decoded_texts
from warehouse.files import text_sha256

# Two steps, as in RLAIF (arXiv 2309.00267, section 2.1): reasons, then the label's likelihood.
_REASONS_REQUEST = (
    "Before you answer, say in two or three sentences why, without the answer itself."
)
_REASONS = "Reasons: "
REASONS_SHA256 = text_sha256(f"{_REASONS_REQUEST}{_REASONS}")
_MESSAGES = TypeAdapter(list[Message])
# Part of every judge's revision: raise it when the same text is shown in another way.
# 2: the nonce depends on the text and the judge, no longer on the rollout's id.
PROMPT_VERSION = 2


@dataclass(frozen=True)
class RenderedPrompt:
    """Token ids and, for the record, the same prompt as text."""

    token_ids: list[int]
    text: str


@dataclass(frozen=True)
class Shown:
    """What a judge is shown of one row; `second` is the other completion of a pair."""

    messages_json: str | None
    completion: str
    nonce: str
    principle: Principle | None = None
    second: str = ""

    def filled(self, rubric: Rubric, parts: Mapping[str, str]) -> dict[str, str]:
        """The texts of `parts` (by role) with their slots filled. Raises UnfitPrompt."""
        messages = parsed_messages(self.messages_json)
        about = messages, self.completion, self.nonce, self.principle, self.second
        return {role: rubric.fill(text, *about) for role, text in parts.items()}


def judged_texts(subjects: pa.Table) -> list[list[str | None]]:
    """Messages, completions and, empty where there is one completion only, the seconds."""
    texts = [decoded_texts(subjects[name]) for name in ("messages", "completion")]
    is_pair = "second" in subjects.column_names
    return [*texts, decoded_texts(subjects["second"]) if is_pair else [""] * subjects.num_rows]


def nonce_of(revision: str, messages_json: str | None, completion: str) -> str:
    """12 hex digits for the markers around a text, which cannot know them: it is hashed in them.

    They depend on judge and text alone, so the same text is the same prompt every night.
    """
    return text_sha256(json.dumps([revision, messages_json, completion]))[:12]


class PromptBuilder:
    """Builds judge prompts for one rubric and one tokenizer. `label_ids`: a token id per label."""

    def __init__(self, rubric: Rubric, tokenizer: Any, *, judge: str) -> None:
        """Raises Misconfigured when the model cannot be a judge for this rubric."""
        self._rubric = rubric
        pieces = template_pieces(
            ["system", "user"] if rubric.system else ["user"],
            tokenizer,
            judge=judge,
            rubric=rubric.name,
        )
        self._pieces, self._generation = pieces[:-1], pieces[-1]
        tail = self._generation + rubric.answer_prefix
        self._tail, self.label_ids = _label_tokens(rubric, tokenizer, tail, judge)
        self._encoder = PromptEncoder(tokenizer)

    def build(self, shown: Shown) -> RenderedPrompt:
        """The prompt that asks for a label. Raises UnfitPrompt."""
        prompt = self._asked(shown, "")
        return self._followed_by(prompt, self._tail)

    def build_reasons(self, shown: Shown) -> RenderedPrompt:
        """The prompt that asks for reasons, and no label yet. Raises UnfitPrompt."""
        prompt = self._asked(shown, f"\n\n{_REASONS_REQUEST}")
        return self._followed_by(prompt, self._generation + _REASONS)

    def build_after(self, reasons: RenderedPrompt, written: str) -> RenderedPrompt:
        """The prompt for a label after the judge's own reasons. Raises UnfitPrompt."""
        ids = reasons.token_ids + self._encoder.untrusted(written.strip())
        end = "\n" + self._tail.removeprefix(self._generation)
        return self._followed_by(RenderedPrompt(ids, reasons.text + written.strip()), end)

    def _asked(self, shown: Shown, request: str) -> RenderedPrompt:
        """Everything up to the judge's turn, with `request` at the end of what the user says."""
        parts = {"system": self._rubric.system or "", "user": self._rubric.user}
        contents = shown.filled(self._rubric, parts)
        contents["user"] += request
        ids: list[int] = []
        text = ""
        for piece in self._pieces:
            if piece in PLACEHOLDERS:
                ids += self._encoder.untrusted(contents[piece])
                text += contents[piece]
            else:
                ids += self._encoder.trusted(piece)
                text += piece
        return RenderedPrompt(ids, text)

    def _followed_by(self, prompt: RenderedPrompt, piece: str) -> RenderedPrompt:
        return RenderedPrompt(prompt.token_ids + self._encoder.trusted(piece), prompt.text + piece)


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


def _label_tokens(rubric: Rubric, tokenizer: Any, tail: str, judge: str) -> tuple[str, list[int]]:
    """The prompt's end and the token of each label after it; raises Misconfigured.

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
    raise Misconfigured(
        f"judge {judge}: not every label of {list(rubric.labels)} is one token after {tail!r}, so "
        f"their likelihoods cannot be compared; give rubric {rubric.name} labels that are"
    )
