"""`roundhouse import`: what was made elsewhere comes into the warehouse. The work is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_SHOWN_PROBLEMS = 10


def import_files(
    warehouse: Annotated[str, typer.Argument(help="the warehouse folder; made if absent")],
    files: Annotated[list[Path], typer.Argument(help="the files to import")],
    style: Annotated[
        Literal["hh-pairs"],
        typer.Option("--format", help="hh-pairs: human preference pairs, .jsonl or .jsonl.gz"),
    ],
    holdout: Annotated[
        float, typer.Option(help="the warehouse's prompts.holdout; those pairs never train")
    ] = 0.2,
) -> None:
    """Bring files into the warehouse, each in one commit; the same file again does nothing."""
    assert style == "hh-pairs"
    from pipeline.gold_pairs import import_pairs

    for path, done in zip(files, import_pairs(warehouse, files, holdout), strict=True):
        if done.is_known:
            typer.echo(f"{path}: imported before as {done.key}")
            continue
        typer.echo(
            f"{path}: {done.train} train pairs, {done.holdout} hold-out pairs as {done.key}; "
            f"{done.duplicates} duplicates, {len(done.problems)} malformed lines left out"
        )
        for problem in done.problems[:_SHOWN_PROBLEMS]:
            typer.echo(f"  {problem}")
        if len(done.problems) > _SHOWN_PROBLEMS:
            more = len(done.problems) - _SHOWN_PROBLEMS
            typer.echo(f"  ... and {more} more: select * from dead_letters")
