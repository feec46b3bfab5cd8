"""A dialogue as the token ids that a reward model was trained on, safe against control tokens.

The rendered dialogue is encoded in one piece, as trainers do, so that a word next to the template's
own text becomes the same tokens as in training. What a message says is data: a control token that
it spells out gets an invisible space, and the encoded dialogue must then hold exactly the control
tokens that the template itself puts there. Not here: judge prompts (judges/prompt.py), the model.
"""

from __future__ import annotations

from typing import Any

from labeling.engines.untrusted import PromptEncoder, UnfitPrompt
from labeling.errors import Misconfigured
from labeling.judges.prompt import RenderedPrompt, parsed_messages

_FILLER = "a"


class DialogueBuilder:
    """Builds dialogues for one tokenizer; `template` (Jinja) goes before the tokenizer's own."""

    def __init__(self, tokenizer: Any, template: str | None, *, labeler: str) -> None:
        """Raises Misconfigured where there is no template, or it shows no completion."""
        chosen = template or tokenizer.chat_template
        if not isinstance(chosen, str):
            found = "several chat templates" if chosen else "no chat template"
            raise Misconfigured(
                f"labelers.{labeler}.template: its tokenizer has {found}; give the Jinja template "
                "that the reward model was trained with, under `template`"
            )
        self.template = chosen
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._expected: dict[tuple[str, ...], list[int]] = {}
        self._check(labeler)

    def build(self, messages_json: str | None, completion: str) -> RenderedPrompt:
        """The dialogue that ends with the completion. Raises UnfitPrompt."""
        turns = [(m.role, m.content) for m in parsed_messages(messages_json)]
        turns.append(("assistant", completion))
        return self._build(turns)

    def _build(self, turns: list[tuple[str, str]]) -> RenderedPrompt:
        text = self._render([(role, self._encoder.broken_up(content)) for role, content in turns])
        ids = self._encode(text)
        if self._encoder.control_tokens(ids) != self._own(tuple(role for role, _ in turns)):
            raise UnfitPrompt("the text holds control tokens that cannot be told from the model's")
        return RenderedPrompt(ids, text)

    def _render(self, turns: list[tuple[str, str]]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=False
            )
        except Exception as error:
            raise UnfitPrompt(f"the model's chat template refuses the dialogue: {error}") from error
        return rendered

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _own(self, roles: tuple[str, ...]) -> list[int]:
        """The control tokens that the template puts into a dialogue of these roles, in order."""
        if roles not in self._expected:
            ids = self._encode(self._render([(role, _FILLER) for role in roles]))
            self._expected[roles] = self._encoder.control_tokens(ids)
        return self._expected[roles]

    def _check(self, labeler: str) -> None:
        """A template that hides a turn would score something else than was asked."""
        marks = ["roundhouse-question", "roundhouse-completion"]
        try:
            text = self._render(list(zip(("user", "assistant"), marks, strict=True)))
        except UnfitPrompt as error:
            raise Misconfigured(f"labelers.{labeler}.template: {error}") from error
        if any(text.count(mark) != 1 for mark in marks):
            raise Misconfigured(
                f"labelers.{labeler}.template: it does not show question and completion exactly "
                f"once: {text[:200]!r}"
            )
