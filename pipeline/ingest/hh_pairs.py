"""HH's lines of preference: one is a dialogue with two answers, the chosen first.

A row is `{"chosen": transcript, "rejected": transcript}`; the transcripts share all turns but the
last. Not here: what a pair becomes in the warehouse (rows.py).
"""

from __future__ import annotations

from pipeline.ingest.files import Pair
from pipeline.ingest.messages import (
    MalformedPrompt,
    check_messages,
    refuse_surrogates,
    transcript_turns,
)


def parse_pair(row: object) -> Pair:
    """The pair in one row of HH. Raises MalformedPrompt saying what is wrong with it."""
    if not isinstance(row, dict):
        raise MalformedPrompt(f"expected an object, found {type(row).__name__}")
    sides = []
    for name in ("chosen", "rejected"):
        text = row.get(name)
        if not isinstance(text, str):
            raise MalformedPrompt(f"no transcript under the key {name!r}")
        turns = transcript_turns(text)
        if turns[-1]["role"] != "assistant":
            raise MalformedPrompt(f"{name} ends with a human turn; there is no answer to compare")
        if not turns[-1]["content"]:
            raise MalformedPrompt(f"the answer of {name} is empty")
        sides.append(turns)
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise MalformedPrompt("chosen and rejected answer different dialogues")
    pair = Pair(check_messages(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"])
    if pair.chosen == pair.rejected:
        raise MalformedPrompt("chosen and rejected are the same text")
    refuse_surrogates(row)
    return pair
