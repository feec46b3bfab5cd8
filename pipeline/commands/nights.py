"""`roundhouse run` and its stages, the verdicts of people, `status` and `report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import AsOf, By, Config, DryRun, Purpose, Root, Round, Sets, Why
from pipeline.commands.printing import (
    print_plan,
    print_relation,
    print_rows,
    print_summary,
    print_times,
)
from pipeline.errors import ConfigError
from pipeline.runtime.progress import read_progress
from warehouse.handle import Warehouse
from warehouse.store.local_cache import local_folder

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.runtime.timings import StageTiming

_SHOWN_COMMITS = 5


def run(
    context: typer.Context,
    config: Config,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds in all")] = None,
    one_more: Annotated[bool, typer.Option("--next", help="one more than there are")] = False,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Bring the warehouse to its rounds; the same command again resumes. Beam options after --."""
    if rounds is not None and one_more:
        raise typer.BadParameter("--rounds and --next exclude each other")
    settings = _load(config, sets, context.args)
    if dry_run:
        import yaml

        from pipeline.plan import plan_night

        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        print_plan(plan_night(settings))
        return
    from pipeline.night import run_rounds

    wanted = None if one_more else (rounds or settings.rounds)
    try:
        outcome = run_rounds(settings, wanted, print)
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept: the same command goes on.", file=sys.stderr)
        raise typer.Exit(130) from None
    _finish(settings, outcome.timings)
    raise typer.Exit(outcome.exit_code)


def nightly(
    context: typer.Context,
    config: Config,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """What a scheduler calls every night: run --next."""
    run(context, config, rounds=None, one_more=True, sets=sets, dry_run=dry_run)


def generate(
    context: typer.Context,
    config: Config,
    number: Round,
    sets: Sets = None,
    purpose: Purpose = "train",
) -> None:
    """One stage: prompts -> rollouts."""
    from pipeline import night

    started = night.Run(_load(config, sets, context.args), print, ("set-up", "sampling"))
    night.sample(started, number, purpose)
    raise typer.Exit(started.exit_code)


def label(
    context: typer.Context,
    config: Annotated[str | None, typer.Argument(help="a YAML file or a shipped name")] = None,
    number: Annotated[int | None, typer.Option("--round", min=0)] = None,
    sets: Sets = None,
    purpose: Purpose = "train",
    named: Annotated[str | None, typer.Option("--config", help="the same as CONFIG")] = None,
    source: Annotated[Path | None, typer.Option("--input", help=".jsonl or .parquet")] = None,
    out: Annotated[Path | None, typer.Option(help="with --input: .jsonl or .parquet")] = None,
    names: Annotated[list[str] | None, typer.Option("--labeler", help="repeatable")] = None,
) -> None:
    """One stage: rollouts -> labels of every labeler; or, with --input, labels of any texts."""
    from pipeline import night
    from pipeline.suites import label_file

    chosen = check_use(config, named, number, source, out, names)
    settings = _load(chosen, sets, context.args)
    if source is not None and out is not None:
        label_file.label_file(settings, source, out, names or (), print)
    elif number is not None:
        started = night.Run(settings, print, ("set-up", "labelling"))
        night.label(started, number, purpose)
        raise typer.Exit(started.exit_code)


def revise(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """One stage: the worst completions of a round -> critiques, revisions and preference pairs."""
    from pipeline import night

    started = night.revise(_load(config, sets, context.args), number, print)
    raise typer.Exit(started.exit_code)


def train(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """Gate, rewards and PPO on a stored round."""
    from pipeline import night

    kinds = ("set-up", "rewards", "training")
    started = night.Run(_load(config, sets, context.args), print, kinds)
    night.reward_and_train(started, number)
    raise typer.Exit(started.exit_code)


def evaluate(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """Hold-out numbers of policy N: its rollouts, labels and evaluation."""
    from pipeline import night

    kinds = ("set-up", "sampling", "labelling", "evaluation")
    started = night.Run(_load(config, sets, context.args), print, kinds)
    night.evaluate_policy(started, number)
    raise typer.Exit(started.exit_code)


def accept(warehouse: Root, number: Round, by: By, why: Why) -> None:
    """A person's verdict: a refused round is trained on, a rejected one's policy is promoted."""
    from pipeline.stages.decisions import ACCEPT, decide

    print(decide(Warehouse.open(warehouse, read_only=True), number, ACCEPT, by, why))


def reject(warehouse: Root, number: Round, by: By, why: Why) -> None:
    """A person's verdict: neither training nor export uses this round."""
    from pipeline.stages.decisions import REJECT, decide

    print(decide(Warehouse.open(warehouse, read_only=True), number, REJECT, by, why))


def status(warehouse: Root, as_of: AsOf = None) -> None:
    """Rounds so far, the last commits, and how far a running stage is."""
    con = Warehouse.open(warehouse, read_only=True, as_of=as_of).connect()
    print_relation(
        con.sql(
            "select round, status, is_stopped, policy_revision_out as policy, "
            "round(epoch(finished_at) - epoch(started_at), 0)::int as seconds, reason "
            "from rounds order by round"
        )
    )
    commits = con.sql(
        "from (select version, key as commit, committed_at as at, rows_added as rows "
        f"from commits order by version desc limit {_SHOWN_COMMITS}) order by version"
    )
    print()
    print_rows(commits.columns, commits.fetchall())
    for folder in sorted((local_folder(warehouse) / "_staging").glob("*")):
        progress = read_progress(folder)
        if progress is not None:
            print(f"unfinished: {folder.name}: {progress.done}/{progress.total} {progress.unit}")


def report(
    warehouse: Root,
    out: Annotated[Path, typer.Option(help="the HTML file")] = Path("report.html"),
    as_of: AsOf = None,
) -> None:
    """One self-contained HTML page: toxicity by round, examples, coverage."""
    from warehouse.report.report import write_report

    print(write_report(warehouse, out, as_of=as_of))


def _load(config: str, sets: list[str] | None, beam_options: list[str]) -> RunConfig:
    from pipeline.configs.loading import load_config

    settings = load_config(config, sets)
    if not beam_options:
        return settings
    beam = settings.beam.model_copy(
        update={"options": (*settings.beam.options, *(o for o in beam_options if o != "--"))}
    )
    return settings.model_copy(update={"beam": beam})


def _finish(settings: RunConfig, timings: list[StageTiming]) -> None:
    """The morning's page: the table of rounds, examples, time, and where everything lies."""
    print()
    con = Warehouse.open(settings.warehouse, read_only=True).connect()
    print_summary(con)
    con.close()
    if timings:
        print_times(timings)
    place = local_folder(settings.warehouse)
    page = place / "report.html"
    if timings or not page.exists():
        from warehouse.report.report import write_report

        write_report(settings.warehouse, page)
    print(f"\nwarehouse  {settings.warehouse}\nreport     {page}")
    print(f"policies   {place / 'policies'}")
    root = shlex.quote(settings.warehouse)  # an address on S3 has ? and & in it
    print(f"next       roundhouse sql {root} 'select * from toxicity_by_round'")


def check_use(
    config: str | None, named: str | None, round_number: int | None, source: Path | None,
    out: Path | None, names: Sequence[str] | None,
) -> str:  # fmt: skip
    """The configuration that `roundhouse label` was given. Raises ConfigError on a wrong mix."""
    if config is not None and named is not None:
        raise ConfigError(f"label: CONFIG {config} and --config {named} exclude each other")
    chosen = config if config is not None else named
    if chosen is None:
        raise ConfigError("label: name a configuration, as CONFIG or by --config")
    if (source is None) == (round_number is None):
        raise ConfigError(
            "label: either --round N (a stage of a round) or --input FILE (any texts)"
        )
    if source is not None and out is None:
        raise ConfigError("label: --input FILE needs --out FILE")
    if source is None and (out is not None or names):
        raise ConfigError("label: --out and --labeler go with --input FILE, not with --round")
    return chosen
