"""Strict reading of what a judge wrote: one status for any text, a number only for a clear verdict.

A verdict is one JSON object with an integer `score` and, where reasons were asked for, a string
`rationale`. A ```json fence or prose around it is allowed (ok_repaired); nothing is guessed beyond
that: a number in prose is no score, two verdicts that differ are none, and what was cut off is not
read, for "1" may be the beginning of "10". Not here: who is asked, and how often
(written.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from warehouse.errors import RoundhouseError

# Part of every writing judge's revision: raise it when the same text gives another verdict.
VERDICT_VERSION = 1
_KEYS = {"rationale", "score"}
_DIGITS = 20  # a longer integer is on no scale, and Python refuses to convert very long ones
_THINK, _THOUGHT = "<think>", "</think>"
_START = re.compile(r"\{|<think>")
_MARK = re.compile(r"\[\[([^\[\]]{1,20})\]\]")
REFUSAL = re.compile(
    r"(?:(?:i['’]?m|i am)\s+(?:very\s+|really\s+)?"
    r"(?:sorry|unable|afraid|not\s+able|not\s+going\s+to)"
    r"|i\s+(?:can['’]?t|cannot|can\s+not|won['’]?t|will\s+not|must\s+decline|apologi[sz]e)\b"
    r"|(?:sorry|apologies|unfortunately)\b|as\s+an\s+ai\b)",
    re.IGNORECASE,
)
SURROUNDED = "text around the JSON object"
_LAST_LATIN = "\u024f"  # end of Latin Extended-B


@dataclass(frozen=True)
class Verdict:
    """What was read. `score_raw`, on the rubric's scale, is None unless ok or ok_repaired.

    `detail` says what was wrong, for people.
    """

    status: str
    score_raw: float | None = None
    rationale: str | None = None
    detail: str | None = None


class _NonFinite(RoundhouseError, ValueError):
    """The JSON holds NaN or an infinity; Python's reader would let it pass."""


class Pairs(list[tuple[str, object]]):
    """A JSON object with all its keys, repeated ones too."""


def read_verdict(text: str, scale: Mapping[int, float]) -> Verdict:
    """The verdict in `text`; never raises.

    `scale` maps every integer that may be written to its value: {1: 1.0, ..., 9: 9.0}.
    """
    try:
        found, has_more = sole_object(text, lambda pairs: _told(_of_object(pairs, scale)))
    except Unreadable as error:
        return Verdict(error.status, detail=error.detail)
    verdict = _of_object(found, scale)
    if verdict.status == "ok" and has_more:
        return replace(verdict, status="ok_repaired", detail=SURROUNDED)
    return verdict


def _told(verdict: Verdict) -> tuple[str, float | None]:
    """What two verdicts must agree on to be one."""
    return verdict.status, verdict.score_raw


class Unreadable(RoundhouseError, ValueError):
    """A text that holds no readable object: the status that it gets, and why."""

    def __init__(self, status: str, detail: str | None = None) -> None:
        super().__init__(detail or status)
        self.status, self.detail = status, detail


def sole_object(text: str, told: Callable[[Pairs], object]) -> tuple[Pairs, bool]:
    """The JSON object that a text says, and whether it says anything else or says it twice.

    Several objects are one where `told` is the same of each. Raises Unreadable.
    """
    objects, outside = _json_objects(text)
    if not objects:
        raise _without_object(outside.strip(), is_thinking_only=bool(text.strip()))
    if outside.count("```") % 2:
        raise Unreadable("truncated", "the code fence is not closed")
    first = told(objects[0])
    if any(told(found) != first for found in objects):
        raise Unreadable("ambiguous", f"{len(objects)} JSON objects that differ")
    return objects[0], bool(outside.strip()) or len(objects) > 1


def _json_objects(text: str) -> tuple[list[Pairs], str]:
    """All JSON objects of a text, and what stands outside of them and of <think> blocks.

    Raises Unreadable at the first brace that opens no object: what follows cannot be told from
    the inside of a broken one.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=Pairs,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=lambda digits: int(digits[:_DIGITS]),
    )
    objects: list[Pairs] = []
    outside = []
    place = 0
    while (start := _START.search(text, place)) is not None:
        outside.append(text[place : start.start()])
        if start.group() == _THINK:
            end = text.find(_THOUGHT, start.end())
            if end < 0:
                raise Unreadable("truncated", "the reasoning does not end")
            place = end + len(_THOUGHT)
            continue
        try:
            found, place = decoder.raw_decode(text, start.start())
        except _NonFinite as error:
            raise Unreadable("non_finite", str(error)) from error
        except (ValueError, RecursionError) as error:
            is_cut = _is_cut_off(text, start.start())
            raise Unreadable("truncated" if is_cut else "malformed", f"JSON: {error}") from error
        if outside[-1].rstrip().endswith("["):
            raise Unreadable("off_schema", "a list of verdicts instead of one")
        objects.append(found)
    return objects, "".join([*outside, text[place:]])


def _refuse_constant(name: str) -> NoReturn:
    raise _NonFinite(f"the JSON holds {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _NonFinite(f"the JSON holds {digits[:_DIGITS]}, which is infinite as a float")
    return number


def _is_cut_off(text: str, start: int) -> bool:
    """Whether the text ends inside the object that opens at `start`: in a string, or in braces."""
    depth, is_string, is_escaped = 0, False, False
    for character in text[start:]:
        if is_escaped:
            is_escaped = False
        elif is_string and character == "\\":
            is_escaped = True
        elif character == '"':
            is_string = not is_string
        elif not is_string and character in "{[":
            depth += 1
        elif not is_string and character in "}]":
            depth -= 1
            if depth == 0:
                return False
    return True


def _of_object(pairs: Pairs, scale: Mapping[int, float]) -> Verdict:
    """The verdict in one JSON object."""
    found = dict(pairs)
    score, rationale = found.get("score"), found.get("rationale")
    if len(found) != len(pairs):
        return Verdict("ambiguous", detail="a key stands twice in the JSON object")
    if not found.keys() <= _KEYS or ("rationale" in found and not isinstance(rationale, str)):
        return Verdict("off_schema", detail=f"keys {sorted(found)[:5]}, or no text in rationale")
    reason = rationale if isinstance(rationale, str) else None
    if score is None and reason is not None and REFUSAL.match(reason.lstrip()):
        return Verdict("refusal", rationale=reason)
    if type(score) is not int:  # a bool is an int to isinstance
        detail = "no score" if "score" not in found else f"score is {str(score)[:50]!r}, no integer"
        return Verdict("off_schema", rationale=reason, detail=detail)
    if score in scale:
        return Verdict("ok", scale[score], reason)
    is_between = min(scale) < score < max(scale)
    status = "off_schema" if is_between else "out_of_range"
    return Verdict(status, rationale=reason, detail=f"score {score} is none of {list(scale)}")


def _without_object(text: str, *, is_thinking_only: bool) -> Unreadable:
    """What a text is that holds no JSON object; `text` is stripped and free of reasoning."""
    if not text:
        return Unreadable("empty", "nothing but reasoning" if is_thinking_only else None)
    try:
        json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=len)
    except _NonFinite as error:
        return Unreadable("non_finite", str(error))
    except (ValueError, RecursionError):
        pass
    else:
        return Unreadable("off_schema", "JSON, but no object")
    if REFUSAL.match(text):
        return Unreadable("refusal")
    if len(set(_MARK.findall(text))) > 1:
        return Unreadable("ambiguous", "several marks in double brackets, and no JSON object")
    if text.count("```") % 2:
        return Unreadable("truncated", "the code fence is not closed")
    letters = [character for character in text if character.isalpha()]
    foreign = sum(character > _LAST_LATIN for character in letters)
    if 2 * foreign > len(letters):
        return Unreadable("wrong_language", "not in Latin script, and no JSON object")
    return Unreadable("malformed", "no JSON object")
