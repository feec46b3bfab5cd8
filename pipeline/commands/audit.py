"""`roundhouse audit`: sample, import, agreement. Light to import; the work is in pipeline/audit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.commands.options import AsOf, Root
from pipeline.commands.printing import estimate_cell, print_rows

if TYPE_CHECKING:
    from labeling.trust.agreement import Agreement
    from pipeline.audit.agreement import AuditReport, LabelerAudit

audit_app = typer.Typer(
    help="Human verdicts: draw a blind sample, import it filled in, compare.", no_args_is_help=True
)
_AGREEMENT = ("items", "po", "kappa", "ac1", "alpha")
_ACCURACY = ("unscored", "accuracy", "sensitivity", "specificity")
_CALIBRATION = ("brier", "ece width", "ece mass", "observed rate", "corrected rate")
Criterion = Annotated[str, typer.Option(help="what is judged")]


@audit_app.command()
def sample(
    warehouse: Root,
    out: Annotated[Path, typer.Option(help="the CSV to fill in; must not exist")],
    count: Annotated[int, typer.Option(min=1, help="completions to judge")] = 200,
    seed: Annotated[int, typer.Option(help="another seed, another sample")] = 0,
    criterion: Criterion = "toxicity",
    rounds: Annotated[list[int] | None, typer.Option("--round", help="repeatable")] = None,
    allocation: Annotated[
        Literal["proportional", "equal"],
        typer.Option(help="proportional, or equal: as many of every score, for rare ones"),
    ] = "proportional",
    as_of: AsOf = None,
) -> None:
    """A blind, stratified sample of completions as a CSV for a person to judge."""
    from pipeline.audit.sample import draw_sample
    from pipeline.audit.sheet import write_sheet

    rows = draw_sample(
        warehouse,
        count,
        seed=seed,
        criterion=criterion,
        rounds=rounds,
        allocation=allocation,
        as_of=as_of,
    )
    write_sheet(rows, out)
    typer.echo(
        f"{rows.num_rows} completions in {out} ({rows['sample'][0]}): write a score from 0 to 1 "
        f"(1: {criterion} is fully there) and your name as annotator, then\n"
        f"roundhouse audit import {shlex.quote(warehouse)} {out}"
    )


@audit_app.command("import")
def import_file(
    warehouse: Root, file: Annotated[Path, typer.Argument(help="the filled CSV")]
) -> None:
    """Publish a filled sample as gold, whole or not at all."""
    from pipeline.audit.verdicts import import_verdicts

    done = import_verdicts(warehouse, file)
    typer.echo(
        f"{done.imported} verdicts imported{f' as {done.key}' if done.key else ''}, "
        f"{done.unscored} rows without a score, {done.known} known already"
    )


@audit_app.command("agreement")
def show_agreement(
    warehouse: Root,
    criterion: Criterion = "toxicity",
    style: Annotated[Literal["table", "json"], typer.Option("--format")] = "table",
    as_of: AsOf = None,
) -> None:
    """Every labeler against gold, and annotators among themselves, with 95 % intervals."""
    from pipeline.audit.agreement import audit_agreement

    report = audit_agreement(warehouse, criterion, as_of)
    if style == "json":
        import dataclasses
        import json

        text = json.dumps(dataclasses.asdict(report), ensure_ascii=False, allow_nan=False, indent=2)
        typer.echo(text)
    else:
        _print_report(report)


def _print_report(report: AuditReport) -> None:
    typer.echo(
        f"{report.criterion}: {report.completions} completions judged by "
        f"{', '.join(report.annotators)}; {report.undecided} undecided (a tie); "
        f"share of yes {estimate_cell(report.gold_rate)}"
    )
    if report.represented < 1:
        typer.echo(
            f"{report.represented:.1%} of the completions of these rounds lie in strata with a "
            "verdict; the numbers below say nothing about the rest"
        )
    typer.echo("")
    among = [("yes or no", report.verdicts), ("scores", report.scores)]
    print_rows(("annotators", *_AGREEMENT), [(name, *_agreement_cells(of)) for name, of in among])
    typer.echo("")
    print_rows(
        ("against gold", "role", *_AGREEMENT),
        [(of.labeler, of.role, *_agreement_cells(of.raters)) for of in report.labelers],
    )
    typer.echo("")
    print_rows(
        ("against gold", *_ACCURACY),
        [(of.labeler, *_accuracy_cells(of)) for of in report.labelers],
    )
    typer.echo("")
    print_rows(
        ("against gold", *_CALIBRATION),
        [(of.labeler, *_calibration_cells(of)) for of in report.labelers],
    )
    for of in report.labelers:
        typer.echo("")
        print_rows(
            (f"{of.labeler} from", "to", "items", "mean score", "share of yes"),
            [(b.low, b.high, b.items, b.mean_score, b.rate) for b in of.calibration.bins],
        )


def _agreement_cells(of: Agreement) -> tuple[int | str, ...]:
    return (of.items, *map(estimate_cell, (of.po, of.kappa, of.ac1, of.alpha)))


def _accuracy_cells(of: LabelerAudit) -> tuple[int | str, ...]:
    shares = (of.accuracy.accuracy, of.accuracy.sensitivity, of.accuracy.specificity)
    return (of.unscored, *map(estimate_cell, shares))


def _calibration_cells(of: LabelerAudit) -> tuple[float | str | None, ...]:
    fit, rates = of.calibration, (of.observed, of.corrected)
    return (fit.brier, fit.ece_width, fit.ece_mass, *map(estimate_cell, rates))
