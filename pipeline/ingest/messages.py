"""Messages of a prompt: read from transcripts and lists, checked, split by the first human turn."""

from __future__ import annotations

import json
import re
from typing import Any

from warehouse.errors import RoundhouseError
from warehouse.files import text_sha256
from warehouse.ledger.suppression import normalise

Messages = list[dict[str, str]]
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class MalformedPrompt(RoundhouseError, ValueError):
    """One row that holds no prompt; says why."""


def first_turn_sha256(messages: Messages) -> str:
    """Digest of the first human turn, by which train and hold-out are split."""
    first = next(m["content"] for m in messages if m["role"] == "user")
    return text_sha256(normalise(first))


def is_holdout(digest: str, share: float) -> bool:
    """Whether this first turn is held out. No seed: a prompt never changes sides."""
    return int(digest[:8], 16) / 16**8 < share


def parse_transcript(text: str) -> Messages:
    """HH's transcript ("Human:" and "Assistant:" turns) as messages that end with a human turn.

    The completion that closes the transcript is dropped.
    """
    messages = transcript_turns(text)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return check_messages(messages)


def transcript_turns(text: str) -> Messages:
    """All turns of HH's transcript. Raises MalformedPrompt for a text that is none.

    Consecutive turns of one role (the data has some) are joined by a blank line.
    """
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise MalformedPrompt("not a transcript: expected '\\n\\nHuman: ...' at its start")
    messages: Messages = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = _ROLES[speaker]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content.strip()
        else:
            messages.append({"role": role, "content": content.strip()})
    return messages


def check_messages(messages: object) -> Messages:
    """The messages themselves if they are a prompt, else MalformedPrompt."""
    if not isinstance(messages, list) or not messages:
        raise MalformedPrompt("no messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise MalformedPrompt("a message without text content")
        if message.get("role") not in ("system", "user", "assistant"):
            raise MalformedPrompt(f"unknown role {message.get('role')!r}")
    turns = [m for m in messages if m["role"] != "system"]
    if not turns or turns[0]["role"] != "user" or turns[-1]["role"] != "user":
        raise MalformedPrompt("a prompt begins and ends with a human turn")
    if not turns[0]["content"].strip() or not turns[-1]["content"].strip():
        raise MalformedPrompt("an empty human turn")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def messages_of(value: object) -> Messages:
    """Whatever a source's column holds: a transcript, a plain question, or messages."""
    if isinstance(value, str):
        if value.startswith("\n\nHuman:"):
            return parse_transcript(value)
        return check_messages([{"role": "user", "content": value}])
    if isinstance(value, list):
        turns = list(value)
        while turns and isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant":
            turns.pop()
        return check_messages(turns)
    raise MalformedPrompt(f"expected text or messages, found {type(value).__name__}")


def plain_text(content: object) -> str:
    """The text of a message's content, which may come in parts. Raises MalformedPrompt."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise MalformedPrompt(f"content of type {kind!r}: only text can be stored")
            texts.append(part["text"])
        return "".join(texts)
    raise MalformedPrompt("a message without text content")


def text_messages(messages: object) -> list[dict[str, Any]]:
    """The messages with role and plain text alone; `developer` is what is called `system` here.

    Raises MalformedPrompt for what is no list of messages, and for calls of tools.
    """
    if not isinstance(messages, list):
        raise MalformedPrompt(f"expected a list of messages, found {type(messages).__name__}")
    found = []
    for message in messages:
        if not isinstance(message, dict):
            raise MalformedPrompt(f"expected a message, found {type(message).__name__}")
        role = message.get("role")
        if role in ("tool", "function") or message.get("tool_calls"):
            raise MalformedPrompt("a call of a tool: only text can be stored")
        role = "system" if role == "developer" else role
        found.append({"role": role, "content": plain_text(message.get("content"))})
    return found


def refuse_surrogates(*texts: object) -> None:
    """Raises UnicodeEncodeError for a lone surrogate, which no file could hold."""
    json.dumps(texts, ensure_ascii=False).encode()
