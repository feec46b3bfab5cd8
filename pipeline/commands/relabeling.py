"""`roundhouse relabel` and `roundhouse replay-dead`. Light to import; the work is elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.commands.options import Config, DryRun, Labelers, Sets


def relabel(
    config: Config,
    rounds: Annotated[list[int], typer.Option("--round", min=0, help="repeatable")],
    names: Labelers = None,
    purpose: Annotated[Literal["train", "holdout", "both"], typer.Option()] = "both",
    sets: Sets = None,
) -> None:
    """Label stored rollouts by the labelers as they are now, beside the labels that are there."""
    from pipeline.configs.loading import load_config
    from pipeline.relabel import relabel as work

    purposes = ("train", "holdout") if purpose == "both" else (purpose,)
    work(load_config(config, sets), rounds, names or (), purposes, print)


def replay_dead(
    config: Config,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", min=0, help="repeatable; none: all open rounds")
    ] = None,
    names: Labelers = None,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", help="repeatable; none: throttled, timeout, error"),
    ] = None,
    dry_run: DryRun = False,
    sets: Sets = None,
) -> None:
    """Try again what failed in rounds not yet rewarded: labels, and prompts the engine refused."""
    from pipeline.configs.loading import load_config
    from pipeline.replay import replay_dead as work
    from pipeline.stages.dead_rows import RETRIED

    code = work(
        load_config(config, sets), rounds or (), names or (), statuses or RETRIED, print,
        dry_run=dry_run,
    )  # fmt: skip
    raise typer.Exit(code)
