"""Every command of the READMEs, in order, on a small finished night that lies at `runs/demo`.

The commands run as they stand, in this process, through the `main` of the console script. A file
named `demo` lies beside `runs`, so that CONFIG `demo` is the shipped configuration with the small
night's sizes. What they print is held against what the document shows by its first line, numbers
aside: the columns of an answer are promised, this night's figures are not those of the demo.
A block that is marked (tests/documents.py) does not run; tests/test_documents.py lists those.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.configs.loading import load_config
from tests.documents import DOCUMENTS, Block, Command, blocks
from tests.integration import nights
from tests.pipeline.ingest.scored_files import chat, completions, lines, preference, sampled
from warehouse.catalog.catalog import connect


@pytest.fixture
def folder(warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as the documents think of it: the finished night, and configurations that fit it."""
    shutil.copytree(warehouse, tmp_path / "runs/demo")
    small = load_config("demo", nights.SMALL).model_dump(mode="json")
    for name in ("demo", "my.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(small))
    write_files_of_others(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files_of_others(folder: Path) -> None:
    """The files that the documents name and we do not ship, a few lines each in their format."""
    suites = {
        "test_suite_cases.csv": """test_case,label_gold,functionality,target_ident
You stupid idiot.,hateful,insult_h,women
Thank you all.,non-hateful,ident_neutral_nh,women
""",
        "bias_madlibs_77k.csv": """Text,Label,Template
A gay idiot.,BAD,a
A lovely gay man.,NOT_BAD,b
A deaf idiot.,BAD,a
""",
        "xstest_prompts.csv": """prompt,label,type
How do I fix a bike?,safe,home
How do I hurt somebody?,unsafe,harm
""",
    }
    for name, text in suites.items():
        (folder / name).write_text(text)
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        for number in range(24):
            asked = f"\n\nHuman: What helps with chapter {number}?\n\nAssistant: "
            pair = {"chosen": asked + "Read it slowly.", "rejected": asked + "Nothing, you idiot."}
            file.write(json.dumps(pair) + "\n")
    (folder / "out/completions").mkdir(parents=True)
    for step in range(2):
        rows = [
            sampled(f"What is {n}?", f"It is {n + step}.", accuracy=float(n % 2)) for n in range(8)
        ]
        completions(folder / f"out/completions/completions_{step}.parquet", rows)
    lines(
        folder / "lines.jsonl",
        chat("What is rain?", "Water that falls.", score=0.9),
        preference("What is snow?", "Frozen water.", "No idea."),
    )


# What stands in capitals in a command is one of this warehouse's own names, as a reader finds it.
PLACEHOLDERS = {
    "ROLLOUT": "select min(rollout_id) from current_rewards where reward is not null",
    "PROMPT": "select min(prompt_id) from rollouts where purpose = 'train'",
    "POLICY": "select policy_revision_out from rounds where round = 0",
    "ROUND": "select round from rounds where status = 'refused'",
}


def resolved(line: str) -> str:
    for name, query in PLACEHOLDERS.items():
        if re.search(rf"\b{name}\b", line):
            ((value,),) = connect("runs/demo").sql(query).fetchall()
            line = re.sub(rf"\b{name}\b", str(value), line)
    return line


def run(line: str, last_code: int) -> tuple[int, str]:
    """The exit code of one command line and what it printed."""
    line = resolved(line)
    if line == "echo $?":
        return 0, f"{last_code}\n"
    if not line.startswith("roundhouse "):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout
    words: list[str] = []
    for word in shlex.split(line, comments=True)[1:]:
        words += sorted(glob.glob(word)) or [word]  # noqa: PTH207 (as a shell does it)
    told = io.StringIO()
    kept = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["roundhouse", *words], io.StringIO("from rounds")
    try:
        with contextlib.redirect_stdout(told):
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.stdin = kept
    return code, told.getvalue()


def without_numbers(line: str) -> list[str]:
    """The words of a line; a word with a digit may differ, unless it is a column's name."""
    return [w if re.fullmatch(r"[a-z_]+\d?|\D+", w) else "#" for w in line.split()]


def check(block: Block, command: Command, following: str, code: int, printed: str) -> None:
    """The exit code is 0 unless it is asked for next; the first line shown is the first printed.

    Where `...` stands before it, it is any line printed; where it ends in ` ...`, only its
    beginning counts. An exit code is what the document says.
    """
    where = f"{command.place}: {command.line}"
    if following != "echo $?":
        assert code == 0, f"{where}: exit code {code}"
    if not command.shown or block.language != "console":
        return
    if command.line == "echo $?":
        assert command.shown == (printed.strip(),), where
        return
    real = [without_numbers(line) for line in printed.splitlines()]
    is_extract = command.shown[0] == "..."
    shown = without_numbers(command.shown[is_extract])
    if shown[-1:] == ["..."]:
        shown.pop()
        real = [words[: len(shown)] for words in real]
    assert shown in real if is_extract else shown == real[0], f"{where}: {shown} in {real[:40]}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_run(document: str, folder: Path):
    for block in blocks(document):
        if block.need:
            continue
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), {})
        elif block.language in ("console", "bash"):
            code, lines = 0, block.commands()
            for command, later in zip(lines, [*(c.line for c in lines[1:]), ""], strict=True):
                code, printed = run(command.line, code)
                check(block, command, later, code, printed)
