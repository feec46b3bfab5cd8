"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Root = Annotated[str, typer.Argument(help="the warehouse: a folder or s3://bucket/prefix")]
Config = Annotated[str, typer.Argument(help="a YAML file or a shipped name (demo)")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, repeatable")]
Round = Annotated[int, typer.Option("--round", min=0)]
Purpose = Annotated[Literal["train", "holdout"], typer.Option()]
AsOf = Annotated[
    int | None, typer.Option("--as-of", help="a version of the ledger (see its view commits)")
]
Labelers = Annotated[list[str] | None, typer.Option("--labeler", help="repeatable; none: all")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show what would be done, do nothing")]
By = Annotated[str, typer.Option(help="who decides")]
Why = Annotated[str, typer.Option(help="for what reason")]
