"""The `roundhouse` commands, one thin function each. Heavy rooms are imported by who needs them.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 done but dead letters above the threshold, 4 the gate
refused the round.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import maintenance_cli, preferences_cli, sql_cli, suite_cli
from pipeline.audit_cli import audit_app
from pipeline.import_cli import import_files
from pipeline.lineage_cli import lineage
from pipeline.relabel_cli import relabel, replay_dead

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.night import StageTiming

app = typer.Typer(
    help="Nightly batch RLAIF: sample, label, publish, train, and show it in SQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Config = Annotated[str, typer.Argument(help="a YAML file or a shipped name (demo)")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, repeatable")]
Warehouse = Annotated[str, typer.Argument(help="a folder or s3://bucket/prefix")]
Round = Annotated[int, typer.Option("--round", min=0)]
AsOf = Annotated[int | None, typer.Option("--as-of", help="a version of the ledger")]


@app.command(context_settings=_PASS_ON)
def run(
    context: typer.Context,
    config: Config,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds in all")] = None,
    one_more: Annotated[bool, typer.Option("--next", help="one more than there are")] = False,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, do nothing")] = False,
) -> None:
    """Bring the warehouse to its rounds; the same command again resumes. Beam options after --."""
    if rounds is not None and one_more:
        raise typer.BadParameter("--rounds and --next exclude each other")
    settings = _load(config, sets, context.args)
    if dry_run:
        _print_plan(settings)
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


@app.command(context_settings=_PASS_ON)
def nightly(
    context: typer.Context,
    config: Config,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, do nothing")] = False,
) -> None:
    """What a scheduler calls every night: run --next."""
    run(context, config, rounds=None, one_more=True, sets=sets, dry_run=dry_run)


@app.command(context_settings=_PASS_ON)
def generate(
    context: typer.Context,
    config: Config,
    number: Round,
    sets: Sets = None,
    purpose: Annotated[str, typer.Option(help="train or holdout")] = "train",
) -> None:
    """One stage: prompts -> rollouts."""
    from pipeline import night

    settings = _load(config, sets, context.args)
    night.sample(night.prepare(settings, print), number, purpose)


@app.command(context_settings=_PASS_ON)
def label(
    context: typer.Context,
    config: Annotated[str | None, typer.Argument(help="a YAML file or a shipped name")] = None,
    number: Annotated[int | None, typer.Option("--round", min=0)] = None,
    sets: Sets = None,
    purpose: Annotated[str, typer.Option(help="train or holdout")] = "train",
    named: Annotated[str | None, typer.Option("--config", help="the same as CONFIG")] = None,
    source: Annotated[Path | None, typer.Option("--input", help=".jsonl or .parquet")] = None,
    out: Annotated[Path | None, typer.Option(help="with --input: .jsonl or .parquet")] = None,
    names: Annotated[list[str] | None, typer.Option("--labeler", help="repeatable")] = None,
) -> None:
    """One stage: rollouts -> labels of every labeler; or, with --input, labels of any texts."""
    from pipeline import label_file, night

    chosen = label_file.check_use(config, named, number, source, out, names)
    settings = _load(chosen, sets, context.args)
    if source is not None and out is not None:
        label_file.label_file(settings, source, out, names or (), print)
    elif number is not None:
        night.label(night.prepare(settings, print), number, purpose)


@app.command(context_settings=_PASS_ON)
def revise(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """One stage: the worst completions of a round -> critiques, revisions and preference pairs."""
    from pipeline import night

    outcome = night.revise(_load(config, sets, context.args), number, print)
    raise typer.Exit(outcome.exit_code)


@app.command(context_settings=_PASS_ON)
def train(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """Gate, rewards and PPO on a stored round."""
    from pipeline import night

    outcome = night.prepare(_load(config, sets, context.args), print)
    night.reward_and_train(outcome, number)
    raise typer.Exit(outcome.exit_code)


@app.command(context_settings=_PASS_ON)
def evaluate(context: typer.Context, config: Config, number: Round, sets: Sets = None) -> None:
    """Hold-out numbers of policy N: its rollouts, labels and evaluation."""
    from pipeline import night

    night.evaluate_policy(night.prepare(_load(config, sets, context.args), print), number)


By = Annotated[str, typer.Option(help="who decides")]
Why = Annotated[str, typer.Option(help="for what reason")]


@app.command()
def accept(warehouse: Warehouse, number: Round, by: By, why: Why) -> None:
    """A person's verdict: a refused round is trained on, a rejected one's policy is promoted."""
    from pipeline.decisions import ACCEPT, decide

    print(decide(warehouse, number, ACCEPT, by, why))


@app.command()
def reject(warehouse: Warehouse, number: Round, by: By, why: Why) -> None:
    """A person's verdict: neither training nor export uses this round."""
    from pipeline.decisions import REJECT, decide

    print(decide(warehouse, number, REJECT, by, why))


@app.command()
def status(warehouse: Warehouse, as_of: AsOf = None) -> None:
    """Rounds so far, the last commits, and how far a running stage is."""
    from pipeline.status import print_status

    print_status(warehouse, as_of)


app.command()(sql_cli.sql)
app.command()(sql_cli.query)
app.command()(sql_cli.describe)


@app.command()
def report(
    warehouse: Warehouse,
    out: Annotated[Path, typer.Option(help="the HTML file")] = Path("report.html"),
    as_of: AsOf = None,
) -> None:
    """One self-contained HTML page: toxicity by round, examples, coverage."""
    from warehouse.report import write_report

    print(write_report(warehouse, out, as_of=as_of))


# Here, so that --help begins with the nights.
app.command()(relabel)
app.command()(replay_dead)
app.command("evaluate-labeler")(suite_cli.evaluate_labeler)
app.command("evaluate-policy")(suite_cli.evaluate_policy)
app.command("import")(import_files)
app.command()(lineage)
app.command()(maintenance_cli.verify)
app.command()(maintenance_cli.vacuum)
app.command()(maintenance_cli.forget)
app.command()(maintenance_cli.compact)
app.command()(preferences_cli.export)
app.command("train-dpo")(preferences_cli.train_dpo)
app.command("train-kto")(preferences_cli.train_kto)
app.command("train-sft")(preferences_cli.train_sft)
app.command("train-reward-model")(preferences_cli.train_reward_model)
app.add_typer(audit_app, name="audit")


def _load(config: str, sets: list[str] | None, beam_options: list[str]) -> RunConfig:
    from pipeline.config import load_config

    settings = load_config(config, sets)
    if not beam_options:
        return settings
    beam = settings.beam.model_copy(
        update={"options": (*settings.beam.options, *(o for o in beam_options if o != "--"))}
    )
    return settings.model_copy(update={"beam": beam})


def _print_plan(settings: RunConfig) -> None:
    import yaml

    from pipeline.console import print_plan
    from pipeline.plan import plan_night

    print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    print_plan(plan_night(settings))


def _finish(settings: RunConfig, timings: list[StageTiming]) -> None:
    """The morning's page: the table of rounds, examples, time, and where everything lies."""
    from pipeline.console import print_summary, print_times
    from warehouse.catalog import connect
    from warehouse.local_cache import local_folder
    from warehouse.report import write_report

    print()
    con = connect(settings.warehouse)
    print_summary(con)
    con.close()
    print_times(timings)
    place = local_folder(settings.warehouse)
    page = write_report(settings.warehouse, place / "report.html")
    print(f"\nwarehouse  {settings.warehouse}\nreport     {page}")
    print(f"policies   {place / 'policies'}")
    root = shlex.quote(settings.warehouse)  # an address on S3 has ? and & in it
    print(f"next       roundhouse sql {root} 'select * from toxicity_by_round'")


def main() -> None:
    """The console script: known errors become one line on standard error and an exit code."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 (the outermost boundary, the unknown is raised)
        raise SystemExit(_explain(error)) from None


def _explain(error: Exception) -> int:
    import duckdb

    from pipeline.config import ConfigError
    from pipeline.stage_process import StageFailed
    from training.dataset import TrainingError
    from warehouse.statements import ForbiddenStatement
    from warehouse.store import WarehouseError

    wrong_use = (
        ConfigError,
        duckdb.ParserException,
        duckdb.BinderException,
        duckdb.CatalogException,
        ForbiddenStatement,
    )
    failed = (StageFailed, TrainingError, WarehouseError, duckdb.Error, OSError)
    if not isinstance(error, (*wrong_use, *failed)):
        raise error
    print(f"roundhouse: {error}", file=sys.stderr)
    return 2 if isinstance(error, wrong_use) else 1


if __name__ == "__main__":
    main()
