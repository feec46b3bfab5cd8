"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Config = Annotated[str, typer.Argument(help="a YAML file or a shipped name (demo)")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, repeatable")]
Warehouse = Annotated[str, typer.Argument(help="a folder or s3://bucket/prefix")]
Round = Annotated[int, typer.Option("--round", min=0)]
AsOf = Annotated[int | None, typer.Option("--as-of", help="a version of the ledger")]


By = Annotated[str, typer.Option(help="who decides")]
Why = Annotated[str, typer.Option(help="for what reason")]
