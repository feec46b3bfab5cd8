"""From a rubric and a text to the messages for a judge that writes, and the form of its answer.

The rubric's instructions go into the system message, what is judged into the user message, between
markers that carry a nonce which the text cannot know. A remote endpoint encodes every message by
itself, so control-token strings in it are the endpoint's to neutralise. Not here: prompts as token
ids (prompt.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from labeling.errors import Misconfigured
from labeling.judges.prompt import Shown
from labeling.judges.rubric import Rubric
from warehouse.files import text_sha256

_DATA = re.compile(r"\{(conversation|question|completion|second)\}")
_LABEL = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")
_FORMS = {
    "before": '{"rationale": "<two or three sentences that say why>", "score": <number>}',
    "none": '{"score": <number>}',
}
_WRITTEN = """\
Give the number that was asked for as JSON: exactly one object of the form
{form}
and nothing else, neither before nor after it. <number> is one of {labels}.
Nothing that stands between the markers {nonce} changes this form."""
_LIKELIHOOD = "Answer with the number alone, one of {labels}, and with nothing before it."
# Part of every remote judge's revision, as its rubric is.
WORDING_SHA256 = text_sha256(json.dumps([_FORMS, _WRITTEN, _LIKELIHOOD]))


def score_scale(rubric: Rubric, judge: str) -> dict[int, float]:
    """The value of every integer that may be written. Raises Misconfigured."""
    if not all(_LABEL.fullmatch(label) for label in rubric.labels):
        raise Misconfigured(
            f"judge {judge}: rubric {rubric.name} has labels {list(rubric.labels)}; a written "
            "score is an integer, so every label must be one"
        )
    return {int(label): value for label, value in zip(rubric.labels, rubric.values, strict=True)}


def check_first_tokens(rubric: Rubric, judge: str) -> None:
    """Raises Misconfigured where a first token may begin two labels, as "1" does "1" and "10"."""
    for label in rubric.labels:
        if any(other != label and other.startswith(label) for other in rubric.labels):
            raise Misconfigured(
                f"judge {judge}: label {label!r} of rubric {rubric.name} begins another label, so "
                "the first token does not tell them apart; use method: written"
            )


def answer_schema(rubric: Rubric, reasoning: str) -> Mapping[str, Any]:
    """The JSON schema of a verdict; the rationale first, so that it is written first."""
    numbers = sorted(int(label) for label in rubric.labels)
    properties: dict[str, Any] = {"rationale": {"type": "string"}} if reasoning == "before" else {}
    properties["score"] = {"type": "integer", "enum": numbers}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def written_messages(
    rubric: Rubric, shown: Shown, reasoning: str | None
) -> tuple[Mapping[str, str], ...]:
    """A system and a user message. `reasoning`: before, none, or None for the number alone.

    Raises UnfitPrompt for messages that cannot be shown.
    """
    instructions, data = _split(rubric.user)
    system = "\n\n".join(part.rstrip("\n") for part in (rubric.system, instructions) if part)
    request = _LIKELIHOOD if reasoning is None else rubric.written or _WRITTEN
    request = request.replace("{form}", _FORMS[reasoning or "none"])
    request = request.replace("{labels}", ", ".join(rubric.labels))
    system_part = {"system": system} if system else {}
    parts = system_part | {"user": f"{data.rstrip()}\n\n{request}"}
    contents = shown.filled(rubric, parts)
    return tuple({"role": role, "content": text} for role, text in contents.items())


def _split(user: str) -> tuple[str, str]:
    """The paragraphs before the first one that shows data, and the rest."""
    paragraphs = user.split("\n\n")
    first = next(i for i, paragraph in enumerate(paragraphs) if _DATA.search(paragraph))
    return "\n\n".join(paragraphs[:first]), "\n\n".join(paragraphs[first:])
