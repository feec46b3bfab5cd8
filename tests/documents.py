"""The READMEs as data: fenced blocks with their marks, commands, tables, maps. Runs nothing.

How a block is written, and what then holds it to the truth:
`console` (lines with $, and what they print) and `bash`: run, unless `<!-- needs: X -->` stands in
the line above, where X is one of NEEDS; `yaml`: loaded as a part of a configuration; `python` and
`crontab`: run; `text`: shown only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = "README.md"
ROOMS = ("pipeline", "labeling", "training", "warehouse")
DOCUMENTS = (README, *(f"{room}/README.md" for room in ROOMS), "tests/benchmarks/README.md")
LANGUAGES = {"console", "bash", "yaml", "python", "crontab", "text"}
NEEDS = {"make", "gpu", "cloud", "data", "quiet cores"}
_NEEDS = re.compile(r"<!-- needs: (.+) -->")


@dataclass(frozen=True)
class Command:
    """One line to type, and the lines that the document shows after it."""

    place: str
    line: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block; `need` is empty where it runs."""

    document: str
    number: int
    language: str
    need: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.number}"

    def commands(self) -> list[Command]:
        """The lines to type, a backslash joining two; a line of comment is none."""
        lines = self.text.replace("\\\n", "").splitlines()
        if self.language == "bash":
            lines = [f"$ {line}" for line in lines if line and not line.startswith("#")]
        found: list[Command] = []
        for line in lines:
            if line.startswith("$ "):
                found.append(Command(self.place, line.removeprefix("$ ")))
            else:
                last = found.pop()
                found.append(Command(last.place, last.line, (*last.shown, line)))
        return found


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in order. Raises AssertionError for an unknown kind."""
    found, lines = [], text_of(document).splitlines()
    place = 0
    while place < len(lines):
        if not lines[place].startswith("```"):
            place += 1
            continue
        end = lines.index("```", place + 1)
        mark = _NEEDS.fullmatch(lines[place - 1]) if place else None
        block = Block(
            document,
            place + 1,
            lines[place].removeprefix("```"),
            mark[1] if mark else "",
            "\n".join(lines[place + 1 : end]),
        )
        assert block.language in LANGUAGES, f"{block.place}: a fence says which of {LANGUAGES}"
        assert not mark or block.need in NEEDS, f"{block.place}: needs one of {NEEDS}"
        found.append(block)
        place = end + 1
    return found


def commands(*documents: str) -> Iterator[tuple[Block, Command]]:
    for document in documents:
        for block in blocks(document):
            if block.language in ("console", "bash"):
                for command in block.commands():
                    yield block, command


def tables(document: str, heading: str) -> list[list[str]]:
    """The rows of every Markdown table under `heading`, as cells, without the tables' own heads."""
    level = heading.split()[0]
    lines = text_of(document).splitlines()
    start = lines.index(heading) + 1
    rows: list[list[str]] = []
    for line in lines[start:]:
        if re.match(rf"#{{1,{len(level)}}} ", line):
            break
        if re.fullmatch(r"\|[-|]+\|", line):
            rows.pop()
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    return rows


def names_and_sentences(document: str, heading: str) -> dict[str, str]:
    """`name` -> sentence, of the tables under `heading`; a name may stand once."""
    rows = tables(document, heading)
    found = {name.strip("`"): sentence for name, sentence in rows}
    assert len(found) == len(rows), f"{document}, {heading}: a name stands twice"
    return found


def room_map(document: str) -> list[str]:
    """The folders and files that the first block names at its lines' beginnings."""
    first = blocks(document)[0]
    assert first.language == "text", f"{first.place}: a room's README opens with its map"
    return [line.split()[0] for line in first.text.splitlines() if not line.startswith(" ")]
