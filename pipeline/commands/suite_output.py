"""What evaluate-labeler and evaluate-policy print and write: a table, JSON or CSV, whole or not.

Not here: the numbers (suites/labeler_numbers.py, suites/policy_numbers.py).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from labeling.trust.agreement import Estimate
from pipeline.commands.printing import estimate_cell, print_rows
from pipeline.errors import ConfigError
from pipeline.suites.labeler_numbers import LabelerNumbers, SliceNumbers
from pipeline.suites.policy_numbers import PolicyNumbers, PolicySlice
from pipeline.suites.suite import Suite
from warehouse.files import write_atomically

FORMATS = ("table", "json", "csv")


def chosen_format(style: str | None, out: Path) -> str:
    """The format that was asked for, else the one the name of the file tells. ConfigError."""
    chosen = style or (out.suffix[1:] if out.suffix[1:] in FORMATS else "table")
    if chosen not in FORMATS:
        raise ConfigError(f"--format {chosen}: expected one of {', '.join(FORMATS)}")
    return chosen


def write_report(
    out: Path, style: str, show: Callable[[], None], flat: list[dict[str, Any]], document: object
) -> None:
    """Writes the report, whole or not at all, then shows it as a table and says where it is.

    `show` prints the table, `flat` are the rows of the CSV, `document` is the JSON.
    """
    if style == "json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    elif style == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        text = buffer.getvalue()
    else:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            show()
        text = shown.getvalue()
    write_atomically(out, text)
    show()
    print(f"report     {out}")


def labeler_document(
    suite: Suite, numbers: Sequence[LabelerNumbers], threshold: float
) -> dict[str, object]:
    """The JSON report of evaluate-labeler."""
    return _head(suite, threshold) | {"labelers": [asdict(one) for one in numbers]}


def policy_document(suite: Suite, numbers: PolicyNumbers, threshold: float) -> dict[str, object]:
    """The JSON report of evaluate-policy."""
    return _head(suite, threshold) | asdict(numbers)


def _head(suite: Suite, threshold: float) -> dict[str, object]:
    return {
        "suite": str(suite.path),
        "suite_sha256": suite.sha256,
        "rows": len(suite.rows),
        "threshold": threshold,
    }


def labeler_rows(numbers: Sequence[LabelerNumbers]) -> list[dict[str, Any]]:
    """The CSV of evaluate-labeler: a row per labeler and slice, the whole suite first."""
    rows: list[dict[str, Any]] = []
    for of in numbers:
        rows += [
            {"labeler": of.labeler, "revision": of.revision} | _slice_cells(one)
            for one in (of.overall, *of.slices)
        ]
        blank = dict.fromkeys(rows[-1])
        for group in of.bias.groups if of.bias else ():
            rows.append(
                blank
                | {"labeler": of.labeler, "revision": of.revision, "column": "identity group"}
                | {"value": group.group, "items": group.items, "auc": group.subgroup_auc}
                | {"bpsn_auc": group.bpsn_auc, "bnsp_auc": group.bnsp_auc}
            )
    return rows


def _slice_cells(of: SliceNumbers) -> dict[str, Any]:
    cells = {name: getattr(of, name) for name in ("column", "value", "items", "unscored")}
    for name in ("accuracy", "sensitivity", "specificity"):
        cells |= _bounds(name, getattr(of, name))
    means = {"auc": of.auc, "mean_score": of.mean_score}
    return cells | means | {"bpsn_auc": None, "bnsp_auc": None}  # those are of groups


def _bounds(name: str, of: Estimate) -> dict[str, float | None]:
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def policy_rows(numbers: PolicyNumbers) -> list[dict[str, Any]]:
    """The CSV of evaluate-policy: a row per slice, the whole suite first, then safe and unsafe."""
    rows = []
    for one in _policy_slices(numbers):
        counts = ("column", "value", "prompts", "unsampled", "completions")
        cells = {"policy": numbers.policy} | {name: getattr(one, name) for name in counts}
        cells |= _bounds("full_refusal", one.full_refusal)
        cells |= _bounds("partial_refusal", one.partial_refusal)
        for of in one.labels:
            cells |= _bounds(f"{of.labeler}_rate", of.rate)
            cells |= {f"{of.labeler}_mean": of.mean_score, f"{of.labeler}_unscored": of.unscored}
        rows.append(cells)
    return rows


def _policy_slices(numbers: PolicyNumbers) -> list[PolicySlice]:
    pair = [one for one in (numbers.safe, numbers.unsafe) if one is not None]
    return [numbers.overall, *pair, *numbers.slices]


def show_labelers(numbers: Sequence[LabelerNumbers]) -> None:
    """Headlines first, then a table per labeler: slices worst first, groups worst first."""
    columns = ("slice", "items", "unscored", "accuracy", "sensitivity", "specificity", "auc")
    for of in numbers:
        rows = [
            (_name(one.column, one.value), one.items, one.unscored, estimate_cell(one.accuracy),
             estimate_cell(one.sensitivity), estimate_cell(one.specificity), one.auc)
            for one in (of.overall, *of.slices)
        ]  # fmt: skip
        print_rows(columns, rows, title=escape(_headline(of)))
        if of.bias is not None:
            groups = [
                (g.group, g.items, g.subgroup_auc, g.bpsn_auc, g.bnsp_auc) for g in of.bias.groups
            ]
            means = (of.bias.subgroup_mean, of.bias.bpsn_mean, of.bias.bnsp_mean)
            groups.append(("generalised mean, p = -5", of.overall.items, *means))
            names = ("identity group", "items", "subgroup auc", "bpsn auc", "bnsp auc")
            print_rows(
                names, groups, title=f"{of.labeler}: final bias metric {_number(of.bias.final)}"
            )


def _headline(of: LabelerNumbers) -> str:
    worst = "no slice of ten scored rows"
    if of.worst is not None:
        name, share = _name(of.worst.column, of.worst.value), estimate_cell(of.worst.accuracy)
        worst = f"worst slice {name}: {share}"
    statuses = ", ".join(f"{status} {count}" for status, count in of.statuses.items())
    return f"{of.labeler} ({of.criterion}): {worst}; rows: {statuses}"


def show_policy(numbers: PolicyNumbers) -> None:
    """Refusals of safe and unsafe prompts as a pair, then every slice."""
    pair = [
        f"{kind} {estimate_cell(one.full_refusal)}"
        for kind, one in (("safe", numbers.safe), ("unsafe", numbers.unsafe))
        if one is not None
    ]
    labelers = [of.labeler for of in numbers.overall.labels]
    columns = ("slice", "prompts", "unsampled", "full refusal", "partial", *labelers)
    rows = [
        (_name(one.column, one.value), one.prompts, one.unsampled, estimate_cell(one.full_refusal),
         estimate_cell(one.partial_refusal), *(estimate_cell(of.rate) for of in one.labels))
        for one in _policy_slices(numbers)
    ]  # fmt: skip
    said = "; ".join(pair) or estimate_cell(numbers.overall.full_refusal)
    headline = f"policy {numbers.policy[:12]}: full refusal of prompts that are "
    print_rows(columns, rows, title=escape(headline + said))


def _name(column: str, value: str) -> str:
    return f"{column}={value}" if column else value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
