"""OpenAI's lines of JSON: chats, with scores or without, and preferences.

A chat line is `{"messages": [...]}` that ends with the assistant's answer. Beside it may stand
`score` (a number, or numbers by name), `model`, and `weight` (there or on the answer; 1 where none
is given: the file is for training). A line of preference is `{"input": {"messages": [...]},
"preferred_output": [...], "non_preferred_output": [...]}`. Other keys (`metadata`, `tools`) are not
kept; a call of a tool or an image makes a line a dead letter. Only the last answer of a dialogue is
a rollout. Not here: what a line becomes in the warehouse (rows.py).
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.ingest.files import Pair, ScoredRollout, checked_rollout
from pipeline.ingest.messages import (
    MalformedPrompt,
    check_messages,
    refuse_surrogates,
    text_messages,
)


def parse_line(row: object) -> Pair | ScoredRollout:
    """The pair or the rollout in one line. Raises MalformedPrompt saying what is wrong with it."""
    if not isinstance(row, dict):
        raise MalformedPrompt(f"expected an object, found {type(row).__name__}")
    if "preferred_output" in row or "non_preferred_output" in row:
        return _pair(row)
    if "messages" not in row:
        raise MalformedPrompt(
            f"neither 'messages' nor 'preferred_output'; the line has {sorted(row)[:8]}"
        )
    *dialogue, answer = text_messages(row["messages"]) or [{}]
    if answer.get("role") != "assistant":
        raise MalformedPrompt("the messages do not end with an answer of the assistant")
    return checked_rollout(
        ScoredRollout(
            messages=check_messages(dialogue),
            completion=answer["content"],
            scores=_scores(row.get("score")),
            policy=str(row.get("model") or "unknown"),
            weight=_number("weight", row["messages"][-1].get("weight", row.get("weight", 1))),
        )
    )


def _pair(row: dict[str, Any]) -> Pair:
    asked = row.get("input")
    if not isinstance(asked, dict):
        raise MalformedPrompt("a line of preference without 'input'")
    messages = check_messages(text_messages(asked.get("messages")))
    sides = []
    for name in ("preferred_output", "non_preferred_output"):
        output = text_messages(row.get(name))
        if len(output) != 1 or output[0]["role"] != "assistant":
            raise MalformedPrompt(f"{name} is not one message of the assistant")
        sides.append(str(output[0]["content"]))
        if not sides[-1].strip():
            raise MalformedPrompt(f"the answer of {name} is empty")
    if sides[0] == sides[1]:
        raise MalformedPrompt("the two outputs are the same text")
    refuse_surrogates(messages, sides)
    return Pair(messages, *sides)


def _scores(value: object) -> dict[str, float]:
    """Scores by name; one without a name is called `score`. NULL is no score."""
    if value is None:
        return {}
    named = value if isinstance(value, dict) else {"score": value}
    return {
        str(name): _number(f"score {name}", number)
        for name, number in named.items()
        if number is not None
    }


def _number(what: str, value: object) -> float:
    """Raises MalformedPrompt for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedPrompt(f"{what} is {value!r}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise MalformedPrompt(f"{what} is not finite")
    return number
