"""HH's files of preference pairs, read: one row is a dialogue with two answers, the chosen first.

A row is `{"chosen": transcript, "rejected": transcript}` (JSONL, also gzipped); the transcripts
share all turns but the last. A line that is no such pair costs only itself. Not here: where pairs
are stored (pairs.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.ingest.files import NOT_IMPORTED, FileContent, Pair, dead_letter, json_lines
from pipeline.ingest.messages import (
    MalformedPrompt,
    check_messages,
    refuse_surrogates,
    transcript_turns,
)


def read_pairs(path: Path) -> FileContent:
    """The file's pairs, and a dead letter for every line that holds none."""
    content = FileContent()
    for number, line in json_lines(path, NOT_IMPORTED):
        try:
            content.pairs.append(parse_pair(json.loads(line)))
        except (ValueError, RecursionError) as error:
            text = line.decode("utf-8", "replace")
            content.dead.append(dead_letter("gold-pairs", f"{path.name}:{number}", text, error))
    return content


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
