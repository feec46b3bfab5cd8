"""The `roundhouse` commands, one thin function each. Heavy rooms are imported by who needs them.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 done but dead letters above the threshold, 4 the gate
refused the round.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from pipeline.commands import maintenance as maintenance_cli
from pipeline.commands import nights
from pipeline.commands import offline_training as preferences_cli
from pipeline.commands import sql as sql_cli
from pipeline.commands import suites as suite_cli
from pipeline.commands.audit import audit_app
from pipeline.commands.ingest import import_files
from pipeline.commands.lineage import lineage
from pipeline.commands.options import PASS_ON
from pipeline.commands.relabeling import relabel, replay_dead
from warehouse.errors import RoundhouseError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for command in (
    nights.run,
    nights.nightly,
    nights.generate,
    nights.label,
    nights.revise,
    nights.train,
    nights.evaluate,
):
    app.command(context_settings=PASS_ON)(command)
app.command()(nights.accept)
app.command()(nights.reject)
app.command()(nights.status)
app.command()(sql_cli.sql)
app.command()(sql_cli.query)
app.command()(sql_cli.describe)
app.command()(nights.report)


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


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error; may stand anywhere")
    ] = False,
) -> None:
    """Nightly batch RLAIF: sample, label, publish, train, and show it in SQL."""
    # Taken out of the arguments by main; declared here, so that --help shows it.


def main() -> None:
    """The console script: known errors become one line on standard error and an exit code."""
    words = sys.argv[1:]
    ours = words[: words.index("--")] if "--" in words else words
    is_debug = "--debug" in ours
    try:
        app([word for word in ours if word != "--debug"] + words[len(ours) :])
    except Exception as error:  # noqa: BLE001 (the outermost boundary, the unknown is raised)
        if is_debug:
            traceback.print_exc()
        raise SystemExit(_explain(error)) from None


def _explain(error: Exception) -> int:
    import duckdb

    wrong_query = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)
    if isinstance(error, RoundhouseError):
        code, next_step = error.exit_code, error.next_step
    elif isinstance(error, (duckdb.Error, OSError)):
        code, next_step = 2 if isinstance(error, wrong_query) else 1, ""
    else:
        raise error
    print(f"roundhouse: {error}" + (f"; {next_step}" if next_step else ""), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
