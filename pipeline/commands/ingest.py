"""`roundhouse import`: what was made elsewhere comes into the warehouse. The work is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pipeline.ingest.importer import ImportedFile, ImportResult
    from pipeline.ingest.meaning import ImportOptions

_SHOWN_PROBLEMS = 10
_Names = Annotated[list[str] | None, typer.Option("--reward", help="trl: only these columns score")]
_Criteria = Annotated[
    list[str] | None,
    typer.Option("--criterion", help="NAME=toxicity: what a score measures; default: reward"),
]
_Scales = Annotated[
    list[str] | None,
    typer.Option("--scale", help="NAME=-1,1: the raw scores that become 0 and 1 (may fall)"),
]
_Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", help="NAME=0.5: share of a score in the reward; default: 1"),
]


def import_files(
    warehouse: Annotated[str, typer.Argument(help="the warehouse folder; made if absent")],
    files: Annotated[list[Path], typer.Argument(help="the files to import")],
    style: Annotated[
        Literal["hh-pairs", "trl", "openai"],
        typer.Option(
            "--format",
            help="hh-pairs: human preference pairs, .jsonl or .jsonl.gz; trl: the completions "
            "Parquet of GRPO and RLOO; openai: chat and preference lines, .jsonl or .jsonl.gz",
        ),
    ],
    holdout: Annotated[
        float, typer.Option(help="the warehouse's prompts.holdout; those rows never train")
    ] = 0.2,
    source: Annotated[
        str | None, typer.Option(help="trl, openai: a name for where they come from")
    ] = None,
    rewards: _Names = None,
    criteria: _Criteria = None,
    scales: _Scales = None,
    weights: _Weights = None,
) -> None:
    """Bring files into the warehouse, each in one commit; the same file again does nothing."""
    from pipeline.ingest.importer import import_files as import_all
    from pipeline.ingest.meaning import parse_options

    if style == "hh-pairs" and (source or rewards or criteria or scales or weights):
        raise typer.BadParameter("hh-pairs has no scores; it takes --holdout alone")
    if rewards and style != "trl":
        raise typer.BadParameter("--reward names columns of trl's files alone")
    options = parse_options(
        style,
        source,
        holdout,
        rewards=rewards or (),
        criteria=criteria or (),
        scales=scales or (),
        weights=weights or (),
    )
    result = import_all(warehouse, files, options)
    for path, done in zip(files, result.files, strict=True):
        _say_file(path, options, done)
    if options.has_scores:
        _say_how_to_use(warehouse, options, result)


def _say_file(path: Path, options: ImportOptions, done: ImportedFile) -> None:
    if done.is_known:
        typer.echo(f"{path}: imported before as {done.key}")
        return
    if options.has_scores:
        brought, bad = f"{done.train} train and {done.holdout} hold-out completions", "rows"
        brought += f", {done.labels} labels, {done.pairs} pairs"
    else:
        brought, bad = (
            f"{done.train_pairs} train pairs, {done.holdout_pairs} hold-out pairs",
            "lines",
        )
    typer.echo(
        f"{path}: {brought} as {done.key}; {done.duplicates} duplicates, "
        f"{len(done.problems)} malformed {bad} left out"
    )
    for problem in done.problems[:_SHOWN_PROBLEMS]:
        typer.echo(f"  {problem}")
    if len(done.problems) > _SHOWN_PROBLEMS:
        more = len(done.problems) - _SHOWN_PROBLEMS
        typer.echo(f"  ... and {more} more: select * from dead_letters")


def _say_how_to_use(warehouse: str, options: ImportOptions, result: ImportResult) -> None:
    for name, (low, high) in result.unscaled.items():
        typer.echo(
            f"score {name} runs from {low:g} to {high:g}, so its labels have a raw score alone and "
            f"status out_of_range; for scores in [0, 1]: --scale {name}={low:g},{high:g} under "
            "another --source. Rewards are raw and do not need it"
        )
    if any(done.train for done in result.files):
        typer.echo(
            f"text only: PPO cannot train on them; roundhouse export {warehouse} dpo --imported "
            f"{options.source} --out pairs.jsonl, train-dpo and train-sft can"
        )
    if any(done.pairs for done in result.files):
        typer.echo(f"pairs: --pairs gold/{options.source} --margin 0")
